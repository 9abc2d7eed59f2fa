"""GET /currencies."""

from aiohttp import web

from aiopypay.handlers import DATABASE
from aiopypay.representations import currency_body, json_response
from aiopypay.store.accounts import currencies

routes = web.RouteTableDef()


@routes.get("/currencies")
async def list_currencies(request: web.Request) -> web.Response:
    """All currencies, in the order of their creation."""
    async with request.app[DATABASE].transaction() as connection:
        rows = await currencies(connection)
    return json_response([currency_body(row) for row in rows])
