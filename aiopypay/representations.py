"""The JSON of the contract: one struct a body. Amounts are numbers with the currency's decimals, or strings of them."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import msgspec
from aiohttp import web

from aiopypay.answers import about
from aiopypay.money import in_decimals
from aiopypay.preferences import prefers
from aiopypay.store.accounts import AccountRow, CurrencyRow
from aiopypay.store.orders import OrderRecord
from aiopypay.store.transfers import TransferRow
from aiopypay.store.users import User

PROCESSED_OFFLINE = (
    "Service partially down. But your transaction is being processed offline and will be processed once online"
)

_ENCODER = msgspec.json.Encoder(decimal_format="number")
_STRING_ENCODER = msgspec.json.Encoder(decimal_format="string")

# What the OpenAPI document shows of them.
Time = Annotated[datetime, msgspec.Meta(tz=True, examples=["2026-05-01T12:00:00Z"])]
IdText = Annotated[str, msgspec.Meta(pattern="^[0-9]+$", examples=["2"])]
Pending = Annotated[str, msgspec.Meta(extra_json_schema={"const": "pending"})]
ProcessedOffline = Annotated[str, msgspec.Meta(examples=[PROCESSED_OFFLINE])]
OrderStatus = Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["posted", "pending", "refused"]})]
TransferKind = Annotated[
    str,
    msgspec.Meta(extra_json_schema={"enum": ["payment", "internal", "commission", "deposit", "withdrawal", "opening"]}),
]


@about(
    "A currency.",
    id="Three letters.",
    description="Its name.",
    commission="The rate that a payment to another user costs the payer: 0.01 is 1 %.",
    decimals="How many decimals its amounts have.",
)
class CurrencyBody(msgspec.Struct):
    """A currency; `commission` is a rate."""

    id: str
    description: str
    commission: Decimal
    decimals: int


@about(
    "A user.",
    id="The id, for paths and forms.",
    username="The name to log in with.",
    full_name="The name that people go by.",
)
class UserBody(msgspec.Struct):
    """A user as registration answers it."""

    id: int
    username: str
    full_name: str


@about(
    "A user, as they and admins see them.",
    username="The name to log in with.",
    password="Always null: a password is never told.",  # noqa: S106 - a text about it
    is_admin="Whether they may administer users and currencies.",
    is_active="Whether they can log in.",
    id="The id, as text.",
)
class PersonBody(msgspec.Struct):
    """A user in the form of client-transactions-api: `id` is text, and `password` is never told."""

    username: str
    password: str | None
    is_admin: bool
    is_active: bool
    id: IdText


@about(
    "An account of a user in one currency.",
    id="The id, for paths and forms.",
    user_id="Whose it is.",
    currency_id="Its currency.",
    amount="Its balance: what can be spent.",
    created_at="When it was opened.",
    updated_at="When its balance last changed; null until it first does.",
)
class AccountBody(msgspec.Struct):
    """An account; `updated_at` is null until its balance first changes."""

    id: int
    user_id: int
    currency_id: str
    amount: Decimal
    created_at: Time
    updated_at: Time | None


@about(
    "Money that went from one account to another.",
    id="The id, also the cursor of lists; null while the order is pending.",
    order_id="The order that it belongs to.",
    kind="What it was for.",
    timestamp="When it was booked; null while the order is pending.",
    from_account_id="The account that paid. A deposit comes from an account with a negative id, which is nobody's.",
    to_account_id="The account that was paid.",
    amount="In the major unit of the currency.",
    comment="The payer's words, or the kind in words.",
)
class TransferBody(msgspec.Struct):
    """A transfer. `id` and `timestamp` are null while its order is pending."""

    id: int | None
    order_id: UUID
    kind: TransferKind
    timestamp: Time | None
    from_account_id: int
    to_account_id: int
    amount: Decimal
    comment: str


@about(
    "The receipt of what was booked.",
    order_id="The order: what to ask for later.",
    status="What has become of it.",
    transfers="The payment, and the commission where there is one.",
    balance="The balance of the paying account right after it.",
)
class ReceiptBody(msgspec.Struct):
    """What a posted transfer is answered with; `balance` is the paying account's afterwards."""

    order_id: UUID
    status: OrderStatus
    transfers: list[TransferBody]
    balance: Decimal | None


@about(
    "The receipt of what was accepted while the database is away. It is booked when the database is back.",
    order_id="The order: what to ask for later.",
    status="Accepted and not yet booked.",
    accepted_at="When it was accepted.",
    transfers="What will be booked; ids and times are null until then.",
    balance="The balance of the paying account to expect after it.",
    detail="The same in words.",
)
class PendingBody(msgspec.Struct):
    """What a transfer accepted without the database is answered with; `balance` is the expected one."""

    order_id: UUID
    status: Pending
    accepted_at: Time
    transfers: list[TransferBody]
    balance: Decimal | None
    detail: ProcessedOffline


@about(
    "What has become of an order.",
    order_id="Its id.",
    status="Booked, accepted and not yet booked, or refused when it was to be booked.",
    accepted_at="When it was accepted.",
    posted_at="When it was booked; null where it is not.",
    reason="Why it was refused; null where it was not.",
    transfers="What it moved, or will.",
)
class OrderBody(msgspec.Struct):
    """An order's present state."""

    order_id: UUID
    status: OrderStatus
    accepted_at: Time
    posted_at: Time | None
    reason: str | None
    transfers: list[TransferBody]


def encode_json(body: Any) -> bytes:
    """Returns the JSON of structs, lists and dictionaries; amounts are numbers."""
    return _ENCODER.encode(body)


def json_response(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Returns a JSON response of structs, lists and dictionaries."""
    return _response(encode_json(body), status, headers)


def money_response(
    request: web.BaseRequest, body: Any, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """Returns a JSON response of a body that tells amounts.

    With `Prefer: money=string` they are strings of the same digits: JavaScript's numbers lose those beyond 2^53. A
    currency's commission is a rate, not an amount, and stays a number. `Vary` stands only where a preference was sent,
    for no answer is ever stored.
    """
    if "Prefer" not in request.headers:
        return _response(_ENCODER.encode(body), status, headers)
    wants_strings = prefers(request, "money", "string")
    response = _response((_STRING_ENCODER if wants_strings else _ENCODER).encode(body), status, headers)
    response.headers.add("Vary", "Prefer")
    if wants_strings:
        response.headers["Preference-Applied"] = "money=string"
    return response


def _response(content: bytes, status: int, headers: dict[str, str] | None) -> web.Response:
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
