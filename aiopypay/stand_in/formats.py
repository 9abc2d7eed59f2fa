"""What the node's store holds of each record, as bytes: the one place that knows. Records may change; this may not.

Each content is a MessagePack array that begins with the number of its format. Those of formats 1 and 2 are maps, and
are read by `older_formats`; rows stay in the format in which they were written.
"""

from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

import msgspec

from aiopypay.ledger import Currency, Kind, Transfer, TransferOrder
from aiopypay.stand_in import older_formats
from aiopypay.stand_in.records import AccountIdentity, Entry, Identities, KnownAccount, KnownUser, Plan, UserIdentity
from aiopypay.store.accounts import AccountState
from aiopypay.store.moments import Moment
from aiopypay.store.orders import OrderRecord
from aiopypay.store.transfers import TransferRow

# Raised when tables or contents change so that an older version cannot read the store. Stores of the formats in between
# are brought up to it when they are opened.
FORMAT = 3
OLDEST_FORMAT = 1

_Three = Literal[3]
_Transfer = tuple[Kind, int, int, Decimal, str]
_Identities = tuple[list[tuple[int, str, datetime | None]], list[tuple[int, str, datetime, int]]]
_Order = tuple[
    UUID, int, int, int, Decimal, str | None, bytes, str | None,
    datetime | None, Decimal | None, int | None, UUID | None,
]  # fmt: skip
_Entry = tuple[_Three, _Order, list[_Transfer], Decimal, int, bool, bool, bool, _Identities | None]
_Row = tuple[int | None, str, datetime | None, int, int, Decimal, str, int]
_Record = tuple[
    _Three, UUID, int, bytes, str, datetime, datetime | None, str | None, Decimal | None, list[_Row], str | None
]
_User = tuple[_Three, int, str, str, str, bool, bool, int, int, datetime | None]
_Currency = tuple[_Three, str, str, Decimal, int, int, int]
_Plan = tuple[_Three, int | None, UUID | None, list[_Entry]]
# There may be a million accounts: their content has never had the names of the fields, nor a number.
_Account = tuple[int, int | None, str, Decimal, int, datetime, datetime | None]

_encode = msgspec.msgpack.Encoder(uuid_format="bytes").encode
_entry_of = msgspec.msgpack.Decoder(_Entry).decode
_plan_of = msgspec.msgpack.Decoder(_Plan).decode
_record_of = msgspec.msgpack.Decoder(_Record).decode
_user_of = msgspec.msgpack.Decoder(_User).decode
_currency_of = msgspec.msgpack.Decoder(_Currency).decode
_account_of = msgspec.msgpack.Decoder(_Account).decode


def encode_entry(entry: Entry) -> bytes:
    """Returns an entry of the journal."""
    return _encode(_entry(entry))


def decode_entry(content: bytes) -> Entry:
    """Returns what `encode_entry` was given. Raises msgspec.MsgspecError."""
    return older_formats.decode_entry(content) if _is_map(content) else _as_entry(_entry_of(content))


def encode_plan(plan: Plan) -> bytes:
    """Returns a plan."""
    count, token = (None, None) if plan.moment is None else (plan.moment.count, plan.moment.token)
    return _encode((3, count, token, [_entry(entry) for entry in plan.entries]))


def decode_plan(content: bytes) -> Plan:
    """Returns what `encode_plan` was given. Raises msgspec.MsgspecError."""
    # A plan of before is a list of maps, this one begins with a number.
    if content[:2] != b"\x94\x03":
        return Plan(older_formats.decode_plan(content))
    _, count, token, entries = _plan_of(content)
    moment = None if count is None or token is None else Moment(count, token)
    return Plan([_as_entry(entry) for entry in entries], moment)


def encode_order(order: OrderRecord) -> bytes:
    """Returns an order whose outcome is known."""
    rows = [
        (
            row.id,
            row.kind,
            row.timestamp,
            row.from_account_id,
            row.to_account_id,
            row.amount,
            row.comment,
            row.decimals,
        )
        for row in order.transfers
    ]
    return _encode(
        (
            3,
            order.id,
            order.user_id,
            order.fingerprint,
            order.status,
            order.accepted_at,
            order.posted_at,
            order.reason,
            order.balance,
            rows,
            order.idempotency_key,
        )
    )


def decode_order(content: bytes) -> OrderRecord:
    """Returns what `encode_order` was given. Raises msgspec.MsgspecError."""
    if _is_map(content):
        return older_formats.decode_order(content)
    _, order_id, user_id, fingerprint, status, accepted_at, posted_at, reason, balance, rows, key = _record_of(content)
    transfers = tuple(TransferRow(row[0], order_id, *row[1:]) for row in rows)
    return OrderRecord(order_id, user_id, fingerprint, status, accepted_at, posted_at, reason, balance, transfers, key)


def encode_user(user: KnownUser) -> bytes:
    """Returns a user."""
    return _encode(
        (
            3,
            user.id,
            user.username,
            user.full_name,
            user.password_hash,
            user.is_admin,
            user.is_active,
            user.version,
            user.deactivations,
            user.created_at,
        )
    )


def decode_user(content: bytes) -> KnownUser:
    """Returns what `encode_user` was given. Raises msgspec.MsgspecError."""
    return older_formats.decode_user(content) if _is_map(content) else KnownUser(*_user_of(content)[1:])


def encode_currency(currency: Currency) -> bytes:
    """Returns a currency."""
    return _encode(
        (
            3,
            currency.id,
            currency.description,
            currency.commission,
            currency.decimals,
            currency.commission_account_id,
            currency.external_account_id,
        )
    )


def decode_currency(content: bytes) -> Currency:
    """Returns what `encode_currency` was given. Raises msgspec.MsgspecError."""
    return older_formats.decode_currency(content) if _is_map(content) else Currency(*_currency_of(content)[1:])


def encode_account(account: AccountState | KnownAccount) -> bytes:
    """Returns an account, without what the journal has accepted on top."""
    return _encode(
        (
            account.id,
            account.user_id,
            account.currency_id,
            account.amount,
            account.version,
            account.created_at,
            account.updated_at,
        )
    )


def decode_account(content: bytes) -> KnownAccount:
    """Returns what `encode_account` was given. Raises msgspec.MsgspecError."""
    return KnownAccount(*_account_of(content))


def account_version(content: bytes) -> int:
    """Returns the version of an account. Raises msgspec.MsgspecError."""
    version: int = _account_of(content)[4]
    return version


def _is_map(content: bytes) -> bool:
    return content[:1] >= b"\x80" and (content[0] <= 0x8F or content[0] in (0xDE, 0xDF))


def _entry(entry: Entry) -> _Entry:
    order = entry.order
    identities = entry.identities
    return (
        3,
        (
            order.id,
            order.user_id,
            order.from_account_id,
            order.to_account_id,
            order.amount,
            order.comment,
            order.fingerprint,
            order.idempotency_key,
            order.accepted_at,
            order.commission_rate,
            order.account_user_id,
            order.group,
        ),
        [
            (transfer.kind, transfer.from_account_id, transfer.to_account_id, transfer.amount, transfer.comment)
            for transfer in entry.transfers
        ],
        entry.balance,
        entry.decimals,
        entry.in_doubt,
        entry.held,
        entry.told,
        None
        if identities is None
        else (
            [(user.id, user.username, user.created_at) for user in identities.users],
            [(one.id, one.currency_id, one.created_at, one.user_id) for one in identities.accounts],
        ),
    )


def _as_entry(content: _Entry) -> Entry:
    _, order, transfers, balance, decimals, in_doubt, held, told, identities = content
    return Entry(
        order=TransferOrder(*order),
        transfers=tuple(Transfer(*transfer) for transfer in transfers),
        balance=balance,
        decimals=decimals,
        in_doubt=in_doubt,
        held=held,
        told=told,
        identities=None
        if identities is None
        else Identities(
            tuple(UserIdentity(*user) for user in identities[0]),
            tuple(AccountIdentity(*account) for account in identities[1]),
        ),
    )
