"""GET /currencies."""

from aiohttp import web

from aiopypay.answers import answers
from aiopypay.handlers import read
from aiopypay.representations import CurrencyBody, currency_body, json_response
from aiopypay.stand_in import reading
from aiopypay.store.accounts import currencies

routes = web.RouteTableDef()


@routes.get("/currencies")
@answers(200, list[CurrencyBody], offline=True)
async def list_currencies(request: web.Request) -> web.Response:
    """All currencies, in the order of their creation."""
    rows = await read(request, currencies, reading.currencies)
    return json_response([currency_body(row) for row in rows])
