"""What stores of format 1 and 2 hold: records as maps, by the names of their fields. Read, and never written any more.

The shapes are those of then, whatever becomes of today's records.
"""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

import msgspec

from aiopypay.ledger import Currency, Kind, Transfer, TransferOrder
from aiopypay.stand_in.records import Entry, KnownUser
from aiopypay.store.orders import OrderRecord
from aiopypay.store.transfers import TransferRow


class _Order(msgspec.Struct):
    id: UUID
    user_id: int
    from_account_id: int
    to_account_id: int
    amount: Decimal
    comment: str | None
    fingerprint: bytes
    idempotency_key: str | None = None
    accepted_at: datetime | None = None
    commission_rate: Decimal | None = None
    account_user_id: int | None = None
    group: UUID | None = None


class _Transfer(msgspec.Struct):
    kind: Kind
    from_account_id: int
    to_account_id: int
    amount: Decimal
    comment: str


class _Entry(msgspec.Struct):
    order: _Order
    transfers: tuple[_Transfer, ...]
    balance: Decimal
    decimals: int
    in_doubt: bool = False
    held: bool = False


class _User(msgspec.Struct):
    id: int
    username: str
    full_name: str
    password_hash: str
    is_admin: bool
    is_active: bool
    version: int
    deactivations: int = 0


class _Currency(msgspec.Struct):
    id: str
    description: str
    commission: Decimal
    decimals: int
    commission_account_id: int
    external_account_id: int


class _TransferRow(msgspec.Struct):
    id: int | None
    order_id: UUID
    kind: str
    timestamp: datetime | None
    from_account_id: int
    to_account_id: int
    amount: Decimal
    comment: str
    decimals: int


class _OrderRecord(msgspec.Struct):
    id: UUID
    user_id: int
    fingerprint: bytes
    status: str
    accepted_at: datetime
    posted_at: datetime | None
    reason: str | None
    balance: Decimal | None
    transfers: tuple[_TransferRow, ...]


_decode_entry = msgspec.msgpack.Decoder(_Entry).decode
_decode_plan = msgspec.msgpack.Decoder(list[_Entry]).decode
_decode_user = msgspec.msgpack.Decoder(_User).decode
_decode_currency = msgspec.msgpack.Decoder(_Currency).decode
_decode_order = msgspec.msgpack.Decoder(_OrderRecord).decode


def decode_entry(content: bytes) -> Entry:
    """Returns the entry of a journal. Raises msgspec.MsgspecError."""
    return _entry(_decode_entry(content))


def decode_plan(content: bytes) -> list[Entry]:
    """Returns the entries of a plan. Raises msgspec.MsgspecError."""
    return [_entry(entry) for entry in _decode_plan(content)]


def decode_user(content: bytes) -> KnownUser:
    """Returns a user; when they were registered is not known. Raises msgspec.MsgspecError."""
    return KnownUser(**msgspec.structs.asdict(_decode_user(content)))


def decode_currency(content: bytes) -> Currency:
    """Returns a currency. Raises msgspec.MsgspecError."""
    return Currency(**msgspec.structs.asdict(_decode_currency(content)))


def decode_order(content: bytes) -> OrderRecord:
    """Returns an order; whether it has a key is not known. Raises msgspec.MsgspecError."""
    older = _decode_order(content)
    transfers = tuple(TransferRow(**msgspec.structs.asdict(row)) for row in older.transfers)
    return OrderRecord(**{**msgspec.structs.asdict(older), "transfers": transfers})


def _entry(older: _Entry) -> Entry:
    return Entry(
        order=TransferOrder(**msgspec.structs.asdict(older.order)),
        transfers=tuple(Transfer(**msgspec.structs.asdict(transfer)) for transfer in older.transfers),
        balance=older.balance,
        decimals=older.decimals,
        in_doubt=older.in_doubt,
        held=older.held,
    )
