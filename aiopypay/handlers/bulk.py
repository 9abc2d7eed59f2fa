"""Many transfers in one request: as many as can be booked, or all or none.

What happens to the orders of a bulk where something ends it in between, from await to await:

- while the body is read or the caller is authenticated: nothing was placed;
- while it waits for its turn, and its caller is looked at again: where the process dies, nothing was placed; a caller
  that goes away changes nothing, for handlers are not cancelled when clients disconnect, and at a shutdown what was
  submitted is finished;
- while its key is looked up, under the writer's lock: nothing was placed; without the database the node's own store
  is asked;
- from there on it is a batch of the writer like any other (`group_commit.py`): before COMMIT nothing is booked, and its
  orders are accepted by the deputy, a group in one transaction of the store; after COMMIT was sent, all of the batch or
  nothing is, and a batch in doubt enters the journal whole, and no part of a group is ever settled alone.

A retry under the same keys tells in each case what became of it.
"""

from aiohttp import web

from aiopypay.answers import answers, described
from aiopypay.auth import AUTHORITY, authenticated
from aiopypay.bulk_bodies import Bulk, BulkQuery, bulk_data
from aiopypay.bulk_orders import answers_of, placed_of, unit_of
from aiopypay.errors import (
    CurrencyMismatch,
    Forbidden,
    InsufficientFunds,
    Problem,
    SameAccount,
    UnknownAccount,
)
from aiopypay.forms import query_string
from aiopypay.handlers import GROUP_COMMIT
from aiopypay.idempotency import idempotency_key
from aiopypay.middlewares import REQUEST_ID
from aiopypay.representations import PendingBody, ReceiptBody, money_response, pending_body, receipt_body
from aiopypay.slices import SLICES
from aiopypay.stand_in.acceptance import Answer
from aiopypay.stand_in.reading import record_of
from aiopypay.store.orders import OrderRecord
from aiopypay.store.users import User

routes = web.RouteTableDef()

_REFUSALS = (UnknownAccount, SameAccount, CurrencyMismatch, InsufficientFunds, Forbidden)


@routes.post("/users/{user_id:[0-9]+}/transfers/bulk")
@described(
    "Pay many times",
    "Up to 1000 transfers in one request, as JSON or as CSV (then `mode` is in the query). The answer has the "
    "receipt or the problem of each transfer, in their order.\n\n"
    "Mode `each` books what can be booked. Mode `all` books everything or nothing; where it is nothing, the "
    "answer is the problem of the first transfer that is malformed, or else of the first that cannot be booked, "
    "and `index` says which, from 0.\n\n"
    "The `Idempotency-Key` of the request stands for all transfers in it that have no `key` of their own; one "
    "with a `key` is the order that it would be alone under that `Idempotency-Key`. While the database is away "
    "receipts are `pending`.",
)
@answers(200, list[PendingBody | ReceiptBody | Problem], problems=_REFUSALS, idempotent=True, offline=True)
@authenticated("user_id")
@query_string(BulkQuery)
@bulk_data
async def post_transfers(request: web.Request, user: User, bulk: Bulk) -> web.Response:
    """Pays many times: an array with the receipt or the problem of each transfer, in their order.

    The header's key is used once a transfer without a key of its own is booked or accepted; where all have keys of
    their own, these alone are.
    """
    slices, request_id = request.app[SLICES], request[REQUEST_ID]
    placed = await placed_of(bulk, slices)
    unit = await unit_of(bulk, placed, user.id, idempotency_key(request), slices, authority=request[AUTHORITY])
    told = answers_of(bulk, placed, await request.app[GROUP_COMMIT].post_all(unit) if unit.orders else [])
    results = await slices.map(lambda answer: _result(answer, request_id), told)
    return await slices.do(lambda: money_response(request, results))


def _result(answer: Answer, request_id: str) -> ReceiptBody | PendingBody | dict[str, str | int | None]:
    if isinstance(answer, OrderRecord):
        return receipt_body(answer)
    if isinstance(answer, Problem):
        return answer.members(request_id)
    return pending_body(record_of(answer))
