"""The routes of currencies: everybody reads them, admins make and change them."""

from dataclasses import dataclass
from decimal import Decimal

from aiohttp import web

from aiopypay.answers import about, answers, described
from aiopypay.auth import authenticated
from aiopypay.errors import CurrencyExists, NotFound, TooManyCurrencies
from aiopypay.fields import parse_full_name
from aiopypay.forms import form_data, form_field
from aiopypay.handlers import SETTINGS, STAND_IN, read
from aiopypay.money_fields import parse_currency_id, parse_decimals, parse_rate
from aiopypay.representations import CurrencyBody, currency_body, json_response
from aiopypay.stand_in import reading
from aiopypay.store.accounts import CurrencyRow, currencies
from aiopypay.store.currencies import add_currency, change_currency
from aiopypay.store.users import User, lock_caller

routes = web.RouteTableDef()


@about("A new currency.")
@dataclass(frozen=True, slots=True)
class CurrencyForm:
    """A new currency; `commission` is a rate, `decimals` are those of its major unit."""

    id: str = form_field("id", parse_currency_id, "Three letters.")
    description: str = form_field("description", parse_full_name, "Its name.")
    commission: Decimal = form_field("commission", parse_rate, "What a payment to another user costs the payer.")
    decimals: int = form_field("decimals", parse_decimals, "How many decimals its amounts have.")


@about("What is to change of a currency. What is left out stays; its decimals never change.")
@dataclass(frozen=True, slots=True)
class CurrencyChangeForm:
    """What changes of a currency; what is left out stays. Its decimals never change: amounts are written in them."""

    description: str | None = form_field("description", parse_full_name, "Its name.", default=None)
    commission: Decimal | None = form_field(
        "commission",
        parse_rate,
        "What a payment to another user costs the payer.",
        default=None,
    )


@routes.get("/currencies")
@described("List currencies", "All currencies with their commission, in the order in which they were added.")
@answers(200, list[CurrencyBody], offline=True)
async def list_currencies(request: web.Request) -> web.Response:
    """All currencies, in the order of their creation."""
    rows = await read(request, currencies, reading.currencies)
    return json_response([currency_body(row) for row in rows])


@routes.post("/currencies")
@described("Add a currency", "For admins. Users open their accounts in it when they want to.")
@answers(201, CurrencyBody, problems=[CurrencyExists, TooManyCurrencies])
@authenticated(admin=True)
@form_data(CurrencyForm)
async def post_currency(request: web.Request, user: User, form: CurrencyForm) -> web.Response:
    """A new currency, with the superuser's and the external account. Users open theirs."""
    wanted = CurrencyRow(form.id, form.description, form.commission, form.decimals)
    async with request.app[STAND_IN].rates.transaction() as connection:
        await lock_caller(connection, user)
        added = await add_currency(connection, wanted, request.app[SETTINGS].accounts_per_user_max)
        if added is None:
            raise CurrencyExists(f"id: there is a currency {form.id} already", field="id")
    return json_response(currency_body(added), status=201)


@routes.patch("/currencies/{currency_id:[A-Z]{3}}")
@described(
    "Change a currency",
    "For admins. What is left out stays. A new commission holds for payments accepted from then on.",
)
@answers(200, CurrencyBody)
@authenticated(admin=True)
@form_data(CurrencyChangeForm)
async def patch_currency(request: web.Request, user: User, form: CurrencyChangeForm) -> web.Response:
    """Changes a currency. A new rate holds for orders accepted from then on."""
    currency_id = request.match_info["currency_id"]
    async with request.app[STAND_IN].rates.transaction() as connection:
        await lock_caller(connection, user)
        changed = await change_currency(connection, currency_id, form.description, form.commission)
        if changed is None:
            raise NotFound(f"There is no currency {currency_id}")
    return json_response(currency_body(changed))
