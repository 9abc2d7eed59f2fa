"""create_app: the only place that knows all the others."""

from collections.abc import AsyncIterator

from aiohttp import web

from aiopypay import cross_site, handlers
from aiopypay.auth import AUTHENTICATOR
from aiopypay.authenticator import Authenticator
from aiopypay.control import control_server
from aiopypay.database import Database
from aiopypay.errors import StartError
from aiopypay.forms import BODY_BYTES_MAX
from aiopypay.group_commit import GroupCommit
from aiopypay.handlers import (
    accounts,
    administration,
    balances,
    bulk,
    currencies,
    documentation,
    me,
    operation,
    orders,
    transfers,
    users,
)
from aiopypay.handlers import (
    tokens as token_routes,
)
from aiopypay.known_addresses import kept_addresses
from aiopypay.metrics import Metrics
from aiopypay.middlewares import METRICS, MODE, count, problem_json, set_headers
from aiopypay.openapi.document import document, encoded
from aiopypay.passwords import Passwords
from aiopypay.settings import Settings
from aiopypay.shared_reads import SharedReads
from aiopypay.slices import SLICES, Slices
from aiopypay.stand_in import reading
from aiopypay.stand_in.lifecycle import StandIn
from aiopypay.stand_in.mode import ModeSwitch
from aiopypay.store.accounts import accounts_by_id
from aiopypay.throttling import Throttle
from aiopypay.tokens import Tokens, signing_keys

# Payments have connections of their own: reads that are slow cannot keep them waiting.
PAYMENT_CONNECTIONS = 3
OTHER_CONNECTIONS = 8

# A file of the data directory.
KNOWN_ADDRESSES = "known-addresses"

# Each request tries them in this order, so transfers come first. `me` before `administration`: it is no user's name.
ROUTES = (
    transfers,
    bulk,
    accounts,
    currencies,
    users,
    orders,
    token_routes,
    me,
    administration,
    balances,
    operation,
    documentation,
)


def create_app(settings: Settings) -> web.Application:
    """Returns the service. Its database must have been migrated, or be away from a node that has met it before.

    Raises StartError where the settings name no database; its start-up raises it where it cannot start.
    """
    if settings.database_url is None:
        raise StartError("no database: set DATABASE_URL, for example postgresql://user@127.0.0.1/aiopypay")
    origins = frozenset(settings.cors_origins)
    guard = cross_site.guard(origins, settings.trusted_proxies)
    app = web.Application(middlewares=[count, problem_json, guard], client_max_size=BODY_BYTES_MAX)
    app[handlers.SETTINGS] = settings
    app[METRICS] = Metrics()
    app[MODE] = ModeSwitch()
    app[SLICES] = Slices()
    app.on_response_prepare.append(set_headers)
    if origins:
        app.on_response_prepare.append(cross_site.tell(origins))
    for module in ROUTES:
        app.add_routes(module.routes)
    app[documentation.DOCUMENT] = encoded(document(app.router))
    app.cleanup_ctx.append(_throttle)
    app.cleanup_ctx.append(_resources)
    return app


async def _throttle(app: web.Application) -> AsyncIterator[None]:
    async with kept_addresses(app[handlers.SETTINGS].data_dir / KNOWN_ADDRESSES) as known:
        app[handlers.THROTTLE] = Throttle(known)
        yield


async def _resources(app: web.Application) -> AsyncIterator[None]:
    settings = app[handlers.SETTINGS]
    assert settings.database_url is not None  # noqa: S101 - create_app refused it
    switch = app[MODE]
    payments = Database(settings.database_url, connections=PAYMENT_CONNECTIONS, link=switch)
    others = Database(settings.database_url, connections=OTHER_CONNECTIONS, link=switch)
    passwords = Passwords()
    tokens = Tokens(signing_keys(settings), settings.token_minutes)
    stand_in = StandIn(settings, others, switch)
    group_commit = GroupCommit(payments, stand_in.deputy, stand_in.writers_lock)
    app[handlers.DATABASE] = others
    app[handlers.ACCOUNTS] = SharedReads(
        others, accounts_by_id, lambda ids: stand_in.deputy.read(reading.accounts_by_id, ids)
    )
    app[handlers.PASSWORDS] = passwords
    app[handlers.GROUP_COMMIT] = group_commit
    app[handlers.STAND_IN] = stand_in
    app[handlers.TOKENS] = tokens
    app[AUTHENTICATOR] = Authenticator(
        payments,
        passwords,
        deputy=stand_in.deputy,
        changes=stand_in.changes,
        tokens=tokens,
        throttle=app[handlers.THROTTLE],
        trusted_proxies=settings.trusted_proxies,
    )
    app[METRICS].watch_refusals(stand_in.refusals)
    await stand_in.start()
    async with control_server(settings.data_dir, stand_in):
        yield
    # Requests are answered by now; what they started is finished before the connections go.
    await group_commit.drain()
    await stand_in.stop()
    passwords.close()
    payments.close()
    others.close()
