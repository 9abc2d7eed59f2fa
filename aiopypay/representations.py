"""The JSON of the contract: one struct a body. Amounts are numbers with the currency's decimals."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from aiohttp import web

from aiopypay.money import in_decimals
from aiopypay.store.accounts import AccountRow, CurrencyRow
from aiopypay.store.orders import OrderRecord
from aiopypay.store.transfers import TransferRow
from aiopypay.store.users import User

PROCESSED_OFFLINE = (
    "Service partially down. But your transaction is being processed offline and will be processed once online"
)

_ENCODER = msgspec.json.Encoder(decimal_format="number")


class CurrencyBody(msgspec.Struct):
    """A currency; `commission` is a rate."""

    id: str
    description: str
    commission: Decimal
    decimals: int


class UserBody(msgspec.Struct):
    """A user as registration answers it."""

    id: int
    username: str
    full_name: str


class PersonBody(msgspec.Struct):
    """A user in the form of client-transactions-api: `id` is text, and `password` is never told."""

    username: str
    password: None
    is_admin: bool
    is_active: bool
    id: str


class AccountBody(msgspec.Struct):
    """An account; `updated_at` is null until its balance first changes."""

    id: int
    user_id: int
    currency_id: str
    amount: Decimal
    created_at: datetime
    updated_at: datetime | None


class TransferBody(msgspec.Struct):
    """A transfer. `id` and `timestamp` are null while its order is pending."""

    id: int | None
    order_id: UUID
    kind: str
    timestamp: datetime | None
    from_account_id: int
    to_account_id: int
    amount: Decimal
    comment: str


class ReceiptBody(msgspec.Struct):
    """What a posted transfer is answered with; `balance` is the paying account's afterwards."""

    order_id: UUID
    status: str
    transfers: list[TransferBody]
    balance: Decimal | None


class PendingBody(msgspec.Struct):
    """What a transfer accepted without the database is answered with; `balance` is the expected one."""

    order_id: UUID
    status: str
    accepted_at: datetime
    transfers: list[TransferBody]
    balance: Decimal | None
    detail: str


class BalanceBody(msgspec.Struct):
    """A user's balance; `id` is the account's, `updated_at` is null until it first changes."""

    user_id: int
    value: Decimal
    created_at: datetime
    updated_at: datetime | None
    id: int


class OfflineBalanceDetail(msgspec.Struct):
    """What was asked for without the database, and the expected balance."""

    user_id: int
    value: Decimal
    balance: Decimal
    message: str


class OfflineBalanceBody(msgspec.Struct):
    """What a deposit or withdrawal accepted without the database is answered with."""

    detail: OfflineBalanceDetail
    order_id: UUID


class OfflineRefusalBody(msgspec.Struct):
    """What a withdrawal that is not covered is answered with, without the database."""

    detail: OfflineBalanceDetail


class OrderBody(msgspec.Struct):
    """An order's present state."""

    order_id: UUID
    status: str
    accepted_at: datetime
    posted_at: datetime | None
    reason: str | None
    transfers: list[TransferBody]


def encode_json(body: Any) -> bytes:
    """Returns the JSON of structs, lists and dictionaries; amounts are numbers."""
    return _ENCODER.encode(body)


def json_response(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Returns a JSON response of structs, lists and dictionaries."""
    content = encode_json(body)
    return web.Response(body=content, status=status, headers=headers, content_type="application/json", charset="utf-8")


def currency_body(row: CurrencyRow) -> CurrencyBody:
    """Returns the JSON form of a currency."""
    return CurrencyBody(row.id, row.description, row.commission, row.decimals)


def person_body(user: User) -> PersonBody:
    """Returns a user as they and admins see them."""
    return PersonBody(user.username, None, user.is_admin, user.is_active, str(user.id))


def account_body(row: AccountRow) -> AccountBody:
    """Returns the JSON form of an account."""
    amount = in_decimals(row.amount, row.decimals)
    return AccountBody(row.id, row.user_id, row.currency_id, amount, row.created_at, row.updated_at)


def balance_body(row: AccountRow) -> BalanceBody:
    """Returns an account as its owner's balance."""
    return BalanceBody(row.user_id, in_decimals(row.amount, row.decimals), row.created_at, row.updated_at, row.id)


def transfer_body(row: TransferRow) -> TransferBody:
    """Returns the JSON form of a transfer."""
    return TransferBody(
        id=row.id,
        order_id=row.order_id,
        kind=row.kind,
        timestamp=row.timestamp,
        from_account_id=row.from_account_id,
        to_account_id=row.to_account_id,
        amount=in_decimals(row.amount, row.decimals),
        comment=row.comment,
    )


def receipt_body(record: OrderRecord) -> ReceiptBody:
    """Returns the receipt of a posted order."""
    transfers = [transfer_body(row) for row in record.transfers]
    balance = None if record.balance is None else in_decimals(record.balance, record.transfers[0].decimals)
    return ReceiptBody(record.id, record.status, transfers, balance)


def pending_body(record: OrderRecord) -> PendingBody:
    """Returns the answer to an order that is accepted and not yet booked."""
    receipt = receipt_body(record)
    return PendingBody(
        record.id, record.status, record.accepted_at, receipt.transfers, receipt.balance, PROCESSED_OFFLINE
    )


def order_body(record: OrderRecord) -> OrderBody:
    """Returns the state of an order."""
    transfers = [transfer_body(row) for row in record.transfers]
    return OrderBody(record.id, record.status, record.accepted_at, record.posted_at, record.reason, transfers)
