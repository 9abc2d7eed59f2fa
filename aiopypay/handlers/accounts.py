"""The routes of accounts: a user's, a single one, a new one."""

from dataclasses import dataclass, replace
from decimal import Decimal

import msgspec
from aiohttp import web

from aiopypay.answers import NEXT_PAGE, Link, answers, described
from aiopypay.auth import authenticated, path_id
from aiopypay.errors import Forbidden, IdempotencyKeyReused, NotFound, TooManyAccounts, UnknownCurrency
from aiopypay.fields import parse_id, parse_limit
from aiopypay.forms import form_data, form_field, query_string
from aiopypay.handlers import ACCOUNTS, SETTINGS, STAND_IN, read
from aiopypay.handlers.paging import next_page
from aiopypay.idempotency import fingerprint, idempotency_key, ids_of_places, order_id
from aiopypay.representations import AccountBody, account_body, money_response
from aiopypay.stand_in import reading
from aiopypay.statements import Connection
from aiopypay.store.accounts import AccountRow, account_opened_by, accounts_of_user, open_account
from aiopypay.store.keys import reused_keys
from aiopypay.store.orders import claim_key, find_orders
from aiopypay.store.users import User, lock_caller
from aiopypay.units import RequestKey

routes = web.RouteTableDef()

_TO_ACCOUNT = (Link("get_account", {"account_id": "$response.body#/id"}),)
_LINKS = (
    Link("get_account", {"account_id": "$response.body#/0/id"}),
    Link("list_transfers", {"user_id": "$response.body#/0/user_id"}),
)


@dataclass(frozen=True, slots=True)
class AccountsQuery:
    """Which accounts: `after` is the id of the last account seen."""

    limit: int = form_field("limit", parse_limit, "How many accounts a page has.", default=100)
    after: int = form_field("after", parse_id, "The id of the last account seen: the page begins behind it.", default=0)


@dataclass(frozen=True, slots=True)
class NoForm:
    """A request whose path says it all."""


@routes.get("/users/{user_id:[0-9]+}/accounts")
@described("List accounts", "Your accounts with their balances, by id. The next page is in the `Link` header.")
@answers(200, list[AccountBody], headers=(NEXT_PAGE,), offline=True, links=_LINKS)
@authenticated("user_id")
@query_string(AccountsQuery)
async def list_accounts(request: web.Request, user: User, query: AccountsQuery) -> web.Response:
    """One page of the user's accounts, by id; the `Link` header leads to the next."""
    # One more than asked for, to know whether there is a next page.
    page = {"after": query.after, "limit": query.limit + 1}
    rows = await read(
        request,
        lambda connection: accounts_of_user(connection, user.id, **page),
        lambda store: reading.accounts_of_user(store, user.id, **page),
    )
    shown = rows[: query.limit]
    headers = next_page(request, replace(query, after=shown[-1].id)) if len(rows) > query.limit else None
    return money_response(request, [account_body(row) for row in shown], headers=headers)


@routes.get("/accounts/{account_id:[0-9]+}")
@described("Read an account", "One of your accounts with its balance.")
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
@described(
    "Open an account",
    "Opens another account in this currency, with nothing in it. Under an `Idempotency-Key` one account is "
    "opened, however often the request is sent.",
)
@answers(200, AccountBody, idempotent=True, problems=[UnknownCurrency, TooManyAccounts], links=_TO_ACCOUNT)
@authenticated("user_id")
@form_data(NoForm)
async def post_account(request: web.Request, user: User, _: NoForm) -> web.Response:
    """Opens another account. With an Idempotency-Key the same request opens one account, however often it is sent."""
    key = idempotency_key(request)
    currency_id = request.match_info["currency_id"]
    accounts_max = request.app[SETTINGS].accounts_per_user_max
    async with request.app[STAND_IN].changes.transaction(user.username) as connection:
        await lock_caller(connection, user)
        if key is None:
            opened = await open_account(connection, user.id, currency_id, None, accounts_max)
        else:
            opened = await open_once(connection, user.id, currency_id, key, accounts_max)
    return money_response(request, account_body(opened))


async def open_once(connection: Connection, user_id: int, currency_id: str, key: str, accounts_max: int) -> AccountRow:
    """Returns the account that was opened under the key, as it was then, or opens it; raises as `open_account` does.

    Raises IdempotencyKeyReused.
    """
    content = fingerprint("POST /users/{user_id}/accounts/{currency_id}", currency_id=currency_id)
    opening = order_id(user_id, key)
    # The claim waits for a first request that still runs, and is undone with the transaction where it fails.
    if await claim_key(connection, opening, user_id, key, content):
        whole = RequestKey(opening, *ids_of_places(user_id, key), content)
        if await reused_keys(connection, [whole]):
            raise IdempotencyKeyReused
        return await open_account(connection, user_id, currency_id, opening, accounts_max)
    (await find_orders(connection, [opening]))[opening].answers(content)
    before = await account_opened_by(connection, opening)
    if before is None:
        raise UnknownCurrency(f"currency_id: there is no currency {currency_id}", field="currency_id")
    return msgspec.structs.replace(before, amount=Decimal(0), updated_at=None)
