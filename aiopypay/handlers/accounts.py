"""The routes of accounts: a user's, a single one, a new one."""

from dataclasses import dataclass
from decimal import Decimal

from aiohttp import web
from msgspec.structs import replace

from aiopypay.answers import Link, answers
from aiopypay.auth import authenticated, path_id
from aiopypay.errors import Forbidden, IdempotencyKeyReused, NotFound, UnknownCurrency
from aiopypay.forms import form_data
from aiopypay.handlers import ACCOUNTS, STAND_IN, read
from aiopypay.idempotency import fingerprint, idempotency_key, ids_of_places, order_id
from aiopypay.representations import AccountBody, account_body, money_response
from aiopypay.stand_in import reading
from aiopypay.statements import Connection
from aiopypay.store.accounts import AccountRow, account_opened_by, accounts_of_user, open_account
from aiopypay.store.keys import reused_keys
from aiopypay.store.orders import claim_key, find_orders
from aiopypay.store.users import User
from aiopypay.units import RequestKey

routes = web.RouteTableDef()

_TO_ACCOUNT = (Link("get_account", {"account_id": "$response.body#/id"}),)
_LINKS = (
    Link("get_account", {"account_id": "$response.body#/0/id"}),
    Link("list_transfers", {"user_id": "$response.body#/0/user_id"}),
)


@dataclass(frozen=True, slots=True)
class NoForm:
    """A request whose path says it all."""


@routes.get("/users/{user_id:[0-9]+}/accounts")
@answers(200, list[AccountBody], offline=True, links=_LINKS)
@authenticated("user_id")
async def list_accounts(request: web.Request, user: User) -> web.Response:
    """The user's accounts by id."""
    rows = await read(
        request,
        lambda connection: accounts_of_user(connection, user.id),
        lambda store: reading.accounts_of_user(store, user.id),
    )
    return money_response(request, [account_body(row) for row in rows])


@routes.get("/accounts/{account_id:[0-9]+}")
@answers(200, AccountBody, offline=True, problems=[Forbidden])
@authenticated()
async def get_account(request: web.Request, user: User) -> web.Response:
    """One account, for its owner."""
    account_id = path_id(request, "account_id")
    row = await request.app[ACCOUNTS].get(account_id)
    if row is None:
        raise NotFound("There is no such account")
    if row.user_id != user.id:
        raise Forbidden("This account belongs to another user")
    return money_response(request, account_body(row))


@routes.post("/users/{user_id:[0-9]+}/accounts/{currency_id:[A-Z]{3}}")
@answers(200, AccountBody, idempotent=True, problems=[UnknownCurrency], links=_TO_ACCOUNT)
@authenticated("user_id")
@form_data(NoForm)
async def post_account(request: web.Request, user: User, _: NoForm) -> web.Response:
    """Opens another account. With an Idempotency-Key the same request opens one account, however often it is sent."""
    key = idempotency_key(request)
    currency_id = request.match_info["currency_id"]
    async with request.app[STAND_IN].changes.transaction(user.username) as connection:
        if key is None:
            opened = _known(await open_account(connection, user.id, currency_id, None), currency_id)
        else:
            opened = await _open_once(connection, user, currency_id, key)
    return money_response(request, account_body(opened))


async def _open_once(connection: Connection, user: User, currency_id: str, key: str) -> AccountRow:
    content = fingerprint("POST /users/{user_id}/accounts/{currency_id}", currency_id=currency_id)
    opening = order_id(user.id, key)
    # The claim waits for a first request that still runs, and is undone with the transaction where it fails.
    if await claim_key(connection, opening, user.id, key, content):
        whole = RequestKey(opening, *ids_of_places(user.id, key), content)
        if await reused_keys(connection, [whole]):
            raise IdempotencyKeyReused
        return _known(await open_account(connection, user.id, currency_id, opening), currency_id)
    (await find_orders(connection, [opening]))[opening].answers(content)
    before = _known(await account_opened_by(connection, opening), currency_id)
    return replace(before, amount=Decimal(0), updated_at=None)


def _known(opened: AccountRow | None, currency_id: str) -> AccountRow:
    if opened is None:
        raise UnknownCurrency(f"currency_id: there is no currency {currency_id}", field="currency_id")
    return opened
