"""The routes of balances: deposits and withdrawals, which are orders like any other, and a user's own balance."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec.structs import replace

from aiopypay.answers import LOCATION, Link, about, answers, described
from aiopypay.auth import AUTHORITY, authenticated
from aiopypay.errors import Forbidden, InsufficientFunds, InvalidRequest, NotFound, UnknownAccount
from aiopypay.fields import parse_id
from aiopypay.forms import form_data, form_field
from aiopypay.handlers import GROUP_COMMIT, SETTINGS, read
from aiopypay.idempotency import fingerprint, idempotency_key, order_id
from aiopypay.ledger import NOBODY, TransferOrder
from aiopypay.middlewares import REQUEST_ID
from aiopypay.money import in_decimals
from aiopypay.money_fields import parse_value
from aiopypay.representations import PROCESSED_OFFLINE, ProcessedOffline, Time, money_response
from aiopypay.stand_in import reading
from aiopypay.stand_in.records import Entry
from aiopypay.store.accounts import AccountRow
from aiopypay.store.balances import BalanceAccount, balance_account
from aiopypay.store.orders import OrderRecord
from aiopypay.store.users import User

routes = web.RouteTableDef()

_TO_ACCOUNT = Link("get_account", {"account_id": "$response.body#/id"})
_REFUSALS = (UnknownAccount, InsufficientFunds, Forbidden)


@about(
    "A balance: an account in the base currency, or the one that was asked for.",
    user_id="Whose it is.",
    value="What is in it.",
    created_at="When the account was opened.",
    updated_at="When it last changed; null until it first does.",
    id="The account's id.",
)
class BalanceBody(msgspec.Struct):
    """A user's balance; `id` is the account's, `updated_at` is null until it first changes."""

    user_id: int
    value: Decimal
    created_at: Time
    updated_at: Time | None
    id: int


@about(
    "What was asked for while the database is away.",
    user_id="Whose account it is.",
    value="What was to be deposited or withdrawn.",
    balance="With 201 the balance to expect, with 402 the one that did not suffice.",
    message="The same in words.",
)
class OfflineBalanceDetail(msgspec.Struct):
    """What was asked for without the database, and the balance there."""

    user_id: int
    value: Decimal
    balance: Decimal
    message: ProcessedOffline


_REFUSED = {
    "user_id": 2,
    "value": Decimal("-1420.69"),
    "balance": Decimal("358.63"),
    "message": "Not enough funds (358.63) for a -1420.69 transaction!",
}


@about(
    "A deposit or withdrawal that was accepted while the database is away.",
    detail="What was asked for, and the balance to expect.",
    order_id="The order: what to ask for later.",
)
class OfflineBalanceBody(msgspec.Struct):
    """What a deposit or withdrawal accepted without the database is answered with."""

    detail: OfflineBalanceDetail
    order_id: UUID


@about(
    "Why a withdrawal was refused. While the database is away `detail` has the figures.",
    type="Stable, and meant for programs.",
    title="What kind of problem it is, in words.",
    status="The status of the answer.",
    detail="Meant for people. While the database is away it has the figures, too.",
    instance="The id of the request.",
)
class RefusedBalanceBody(msgspec.Struct):
    """What a withdrawal that is not covered is answered with: one shape for both of its media types."""

    type: str
    title: str
    status: int
    detail: Annotated[str | OfflineBalanceDetail, msgspec.Meta(examples=[_REFUSED])]
    instance: str


@about("A deposit or a withdrawal.")
@dataclass(frozen=True, slots=True)
class BalanceForm:
    """A deposit (`value` above 0) or a withdrawal (below 0); without `account_id` to or from the user's balance."""

    user_id: int = form_field("user_id", parse_id, "Whose account: your own id, unless you are an admin.")
    value: Decimal = form_field("value", parse_value, "How much.")
    account_id: int | None = form_field(
        "account_id",
        parse_id,
        "Another account of that user than their balance, for other currencies.",
        default=None,
    )


@routes.get("/api/balances/my")
@described("Read your balance", "Your first account in the base currency of this service.")
@answers(200, BalanceBody, offline=True, problems=[NotFound], links=(_TO_ACCOUNT,))
@authenticated()
async def get_my_balance(request: web.Request, user: User) -> web.Response:
    """The caller's balance."""
    found = await _find(request, user.id, None)
    if found is None:
        raise NotFound(f"You have no account in {request.app[SETTINGS].base_currency}")
    return money_response(request, _balance_body(found.account))


@routes.post("/api/balances")
@described(
    "Deposit or withdraw",
    "Puts money into an account (`value` above 0) or takes it out (below 0). For yourself, or as an admin for "
    "anybody; whether everybody may deposit to themselves is a setting of this service.\n\n"
    "Send an `Idempotency-Key`, as with payments. While the database is away the answer is still 201, with the "
    "expected balance in `detail`, and the order is booked when the database is back.",
)
@answers(201, BalanceBody, headers=(LOCATION,), links=(_TO_ACCOUNT,), problems=_REFUSALS)
@answers(201, OfflineBalanceBody, idempotent=True, offline=True)
@answers(402, RefusedBalanceBody)
@authenticated()
@form_data(BalanceForm)
async def post_balance(request: web.Request, user: User, form: BalanceForm) -> web.Response:
    """Deposits or withdraws, once. 201 also without the database, then with what is expected.

    What was ordered under an Idempotency-Key is answered as it was, also to a caller who may no longer order it.
    """
    key = idempotency_key(request)
    forbidden = _forbidden(request, user, form)
    if forbidden is not None and key is None:
        raise forbidden
    found = await _find(request, form.user_id, form.account_id)
    if found is None:
        raise forbidden or _unknown(form, request.app[SETTINGS].base_currency)
    order = _order(form, user.id, found, key)
    if forbidden is not None:
        # Only the writer can tell: a first attempt may still be under way there.
        order = replace(order, account_user_id=NOBODY)
    try:
        answer = await request.app[GROUP_COMMIT].post(order, request[AUTHORITY])
    except (Forbidden, InvalidRequest) as refusal:
        raise forbidden or refusal from None
    except InsufficientFunds as refusal:
        if not refusal.is_offline:
            raise
        detail = _offline_detail(form, refusal.balance, found.account.decimals, refusal.detail)
        return _refused(request, refusal, detail)
    if isinstance(answer, OrderRecord):
        return _booked(request, user, found, answer)
    return _pending(request, user, form, answer)


def _balance_body(row: AccountRow) -> BalanceBody:
    """Returns an account as its owner's balance."""
    return BalanceBody(row.user_id, in_decimals(row.amount, row.decimals), row.created_at, row.updated_at, row.id)


def _forbidden(request: web.Request, user: User, form: BalanceForm) -> Forbidden | None:
    """Says why the caller may not order this. The one place that lets an order about another user's account in."""
    if form.user_id != user.id and not user.is_admin:
        return Forbidden("user_id: is another user", field="user_id")
    if form.value > 0 and not user.is_admin and not request.app[SETTINGS].self_deposit:
        return Forbidden("value: only an admin may deposit here", field="value")
    return None


async def _find(request: web.Request, user_id: int, account_id: int | None) -> BalanceAccount | None:
    currency_id = request.app[SETTINGS].base_currency
    return await read(
        request,
        lambda connection: balance_account(connection, user_id, currency_id, account_id),
        lambda store: reading.balance_account(store, user_id, currency_id, account_id),
    )


def _unknown(form: BalanceForm, currency_id: str) -> UnknownAccount:
    if form.account_id is not None:
        return UnknownAccount(f"account_id: there is no account {form.account_id}", field="account_id")
    return UnknownAccount(f"user_id: user {form.user_id} has no account in {currency_id}", field="user_id")


def _order(form: BalanceForm, caller_id: int, found: BalanceAccount, key: str | None) -> TransferOrder:
    content = fingerprint("POST /api/balances", user_id=form.user_id, value=form.value, account_id=form.account_id)
    own, external = found.account.id, found.external_account_id
    return TransferOrder(
        id=order_id(caller_id, key),
        user_id=caller_id,
        from_account_id=external if form.value > 0 else own,
        to_account_id=own if form.value > 0 else external,
        amount=abs(form.value),
        comment=None,
        fingerprint=content,
        idempotency_key=key,
        account_user_id=form.user_id,
    )


def _booked(request: web.Request, user: User, found: BalanceAccount, record: OrderRecord) -> web.Response:
    """The balance right after the order, also where this is a retry and it has changed since."""
    assert record.balance is not None  # noqa: S101 - an order that moved money has one
    then = replace(found.account, amount=record.balance, updated_at=record.posted_at)
    return money_response(request, _balance_body(then), status=201, headers=_location(user, record))


def _pending(request: web.Request, user: User, form: BalanceForm, entry: Entry) -> web.Response:
    detail = _offline_detail(form, entry.balance, entry.decimals, PROCESSED_OFFLINE)
    body = OfflineBalanceBody(detail, entry.order.id)
    return money_response(request, body, status=201, headers=_location(user, entry.order))


def _refused(request: web.Request, refusal: InsufficientFunds, detail: OfflineBalanceDetail) -> web.Response:
    request_id = request[REQUEST_ID]
    told = refusal.members(request_id)
    body = RefusedBalanceBody(str(told["type"]), refusal.title, refusal.status, detail, request_id)
    return money_response(request, body, status=refusal.status)


def _offline_detail(form: BalanceForm, balance: Decimal, decimals: int, message: str) -> OfflineBalanceDetail:
    return OfflineBalanceDetail(
        form.user_id, in_decimals(form.value, decimals), in_decimals(balance, decimals), message
    )


def _location(user: User, order: OrderRecord | TransferOrder) -> dict[str, str]:
    return {"Location": f"/users/{user.id}/orders/{order.id}"}
