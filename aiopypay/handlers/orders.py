"""GET /users/{user_id}/orders/{order_id}."""

from uuid import UUID

from aiohttp import web

from aiopypay.answers import LOCATION, answers, described
from aiopypay.auth import authenticated
from aiopypay.errors import NotFound
from aiopypay.handlers import read
from aiopypay.representations import OrderBody, money_response, order_body
from aiopypay.stand_in import reading
from aiopypay.statements import Connection
from aiopypay.store.orders import OrderRecord, find_orders
from aiopypay.store.users import User

routes = web.RouteTableDef()

_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@routes.get("/users/{user_id:[0-9]+}/orders/{order_id:" + _UUID + "}")
@described(
    "Read an order",
    "What has become of a payment, a deposit or a withdrawal of yours: `posted`, `pending` or `refused`, and the "
    "transfers that it made. Its id is in the receipt, its address in the `Location` header of the answer.",
)
@answers(200, OrderBody, headers=(LOCATION,), offline=True)
@authenticated("user_id")
async def get_order(request: web.Request, user: User) -> web.Response:
    """An order's present state, for the user who placed it."""
    wanted = UUID(request.match_info["order_id"])

    async def booked(connection: Connection) -> OrderRecord | None:
        return (await find_orders(connection, [wanted])).get(wanted)

    record = await read(request, booked, lambda store: reading.order(store, wanted))
    if record is None or record.user_id != user.id:
        raise NotFound("There is no such order")
    return money_response(request, order_body(record), headers={"Location": f"/users/{user.id}/orders/{record.id}"})
