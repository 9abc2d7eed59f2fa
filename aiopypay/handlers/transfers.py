"""The routes of transfers: pay, and look at the history."""

from dataclasses import dataclass, replace
from uuid import UUID

from aiohttp import web

from aiopypay.answers import LOCATION, NEXT_PAGE, Link, answers, described
from aiopypay.auth import AUTHORITY, authenticated
from aiopypay.errors import (
    CurrencyMismatch,
    Forbidden,
    InsufficientFunds,
    SameAccount,
    UnknownAccount,
)
from aiopypay.fields import parse_id, parse_limit, parse_sort
from aiopypay.forms import form_data, form_field, query_string
from aiopypay.handlers import DATABASE, GROUP_COMMIT
from aiopypay.handlers.paging import next_page
from aiopypay.idempotency import idempotency_key, order_id
from aiopypay.representations import (
    PendingBody,
    ReceiptBody,
    TransferBody,
    money_response,
    pending_body,
    receipt_body,
    transfer_body,
)
from aiopypay.stand_in.reading import record_of
from aiopypay.store.history import Page, Sort, history
from aiopypay.store.orders import OrderRecord
from aiopypay.store.users import User
from aiopypay.transfer_orders import NO_CONTENT, TransferForm, content_of, order_of

routes = web.RouteTableDef()

_TO_ORDER = (Link("get_order", {"user_id": "$request.path.user_id", "order_id": "$response.body#/order_id"}),)
_REFUSALS = (UnknownAccount, SameAccount, CurrencyMismatch, InsufficientFunds, Forbidden)


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Which transfers: `from` and `to` are user ids, `after` is the id of the last transfer seen."""

    from_user_id: int | None = form_field(
        "from",
        parse_id,
        "Only transfers from this user (an id of a user, not of an account).",
        default=None,
    )
    to_user_id: int | None = form_field("to", parse_id, "Only transfers to this user.", default=None)
    sort: Sort = form_field("sort", parse_sort, "`asc`: oldest first; `dsc`: newest first.", default="asc")
    limit: int = form_field("limit", parse_limit, "How many transfers a page has.", default=100)
    after: int | None = form_field(
        "after",
        parse_id,
        "The id of the last transfer seen: the page begins behind it.",
        default=None,
    )


@routes.post("/users/{user_id:[0-9]+}/transfers")
@described(
    "Pay",
    "Moves money from one of your accounts to any other of the same currency. To another user's account the "
    "commission of the currency comes on top; between your own accounts there is none.\n\n"
    "Send an `Idempotency-Key`, and send the request again with the same key whenever the answer is missing or is "
    "503: it is paid once. While the database is away the answer is 202, and the payment is booked when the "
    "database is back.",
)
@answers(200, ReceiptBody, headers=(LOCATION,), links=_TO_ORDER, problems=_REFUSALS)
@answers(202, PendingBody, headers=(LOCATION,), links=_TO_ORDER, idempotent=True, offline=True)
@authenticated("user_id")
@form_data(TransferForm)
async def post_transfer(request: web.Request, user: User, form: TransferForm) -> web.Response:
    """Pays: books the transfer and its commission together, once."""
    key = idempotency_key(request)
    content = NO_CONTENT if key is None else content_of(form)
    order = order_of(form, user.id, order_id=order_id(user.id, key), content=content, key=key)
    answer = await request.app[GROUP_COMMIT].post(order, request[AUTHORITY])
    if isinstance(answer, OrderRecord):
        return _receipt(request, user, answer.id, receipt_body(answer), 200)
    return _receipt(request, user, answer.order.id, pending_body(record_of(answer)), 202)


@routes.get("/users/{user_id:[0-9]+}/transfers")
@described(
    "List transfers",
    'The transfers from and to your accounts, by id. The next page is in the `Link` header (`rel="next"`); where '
    "there is none, this is the last.",
)
@answers(200, list[TransferBody], headers=(NEXT_PAGE,))
@authenticated("user_id")
@query_string(HistoryQuery)
async def list_transfers(request: web.Request, user: User, query: HistoryQuery) -> web.Response:
    """One page of the user's transfers; the `Link` header leads to the next.

    A page that is narrowed to two users may hold fewer than `limit`, even none, and still have a next one.
    """
    page = Page(user.id, query.from_user_id, query.to_user_id, query.sort, query.limit, query.after)
    async with request.app[DATABASE].transaction(by_statement=True) as connection:
        rows, after = await history(connection, page)
    headers = None if after is None else next_page(request, replace(query, after=after))
    return money_response(request, [transfer_body(row) for row in rows], headers=headers)


def _receipt(
    request: web.Request, user: User, order: UUID, body: ReceiptBody | PendingBody, status: int
) -> web.Response:
    return money_response(request, body, status=status, headers={"Location": f"/users/{user.id}/orders/{order}"})
