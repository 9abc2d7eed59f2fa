"""The routes of accounts: a user's, a single one, a new one."""

from dataclasses import replace
from decimal import Decimal

from aiohttp import web

from aiopypay.auth import authenticated, path_id
from aiopypay.errors import Forbidden, NotFound, UnknownCurrency
from aiopypay.handlers import DATABASE
from aiopypay.idempotency import fingerprint, idempotency_key, order_id
from aiopypay.representations import account_body, json_response
from aiopypay.store.accounts import AccountRow, account, account_opened_by, accounts_of_user, open_account
from aiopypay.store.orders import claim_key, find_orders
from aiopypay.store.users import User

routes = web.RouteTableDef()


@routes.get("/users/{user_id:[0-9]+}/accounts")
@authenticated("user_id")
async def list_accounts(request: web.Request, user: User) -> web.Response:
    """The user's accounts by id."""
    async with request.app[DATABASE].transaction() as connection:
        rows = await accounts_of_user(connection, user.id)
    return json_response([account_body(row) for row in rows])


@routes.get("/accounts/{account_id:[0-9]+}")
@authenticated()
async def get_account(request: web.Request, user: User) -> web.Response:
    """One account, for its owner."""
    async with request.app[DATABASE].transaction() as connection:
        row = await account(connection, path_id(request, "account_id"))
    if row is None:
        raise NotFound("There is no such account")
    if row.user_id != user.id:
        raise Forbidden("This account belongs to another user")
    return json_response(account_body(row))


@routes.post("/users/{user_id:[0-9]+}/accounts/{currency_id:[A-Z]{3}}")
@authenticated("user_id")
async def post_account(request: web.Request, user: User) -> web.Response:
    """Opens another account. With an Idempotency-Key the same request opens one account, however often it is sent."""
    key = idempotency_key(request)
    currency_id = request.match_info["currency_id"]
    opened = await (_open(request, user, currency_id) if key is None else _open_once(request, user, currency_id, key))
    return json_response(account_body(opened))


async def _open(request: web.Request, user: User, currency_id: str) -> AccountRow:
    async with request.app[DATABASE].transaction() as connection:
        return _known(await open_account(connection, user.id, currency_id, None), currency_id)


async def _open_once(request: web.Request, user: User, currency_id: str, key: str) -> AccountRow:
    content = fingerprint("POST /users/{user_id}/accounts/{currency_id}", currency_id=currency_id)
    opening = order_id(user.id, key)
    async with request.app[DATABASE].transaction() as connection:
        # The claim waits for a first request that still runs, and is undone with the transaction where it fails.
        if await claim_key(connection, opening, user.id, key, content):
            return _known(await open_account(connection, user.id, currency_id, opening), currency_id)
        (await find_orders(connection, [opening]))[opening].answers(content)
        before = _known(await account_opened_by(connection, opening), currency_id)
    return replace(before, amount=Decimal(0), updated_at=None)


def _known(opened: AccountRow | None, currency_id: str) -> AccountRow:
    if opened is None:
        raise UnknownCurrency(f"currency_id: there is no currency {currency_id}", field="currency_id")
    return opened
