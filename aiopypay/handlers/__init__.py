"""The routes, a few lines each."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiohttp import web

from aiopypay.database import Database
from aiopypay.errors import DatabaseUnavailable
from aiopypay.group_commit import GroupCommit
from aiopypay.passwords import Passwords
from aiopypay.settings import Settings
from aiopypay.shared_reads import SharedReads
from aiopypay.stand_in.lifecycle import StandIn
from aiopypay.stand_in.store import Store
from aiopypay.statements import Connection
from aiopypay.store.accounts import AccountRow
from aiopypay.throttling import Throttle
from aiopypay.tokens import Tokens

DATABASE: web.AppKey[Database] = web.AppKey("database", Database)
GROUP_COMMIT: web.AppKey[GroupCommit] = web.AppKey("group_commit", GroupCommit)
PASSWORDS: web.AppKey[Passwords] = web.AppKey("passwords", Passwords)
TOKENS: web.AppKey[Tokens] = web.AppKey("tokens", Tokens)
THROTTLE: web.AppKey[Throttle] = web.AppKey("throttle", Throttle)
STAND_IN: web.AppKey[StandIn] = web.AppKey("stand_in", StandIn)
ACCOUNTS: web.AppKey[SharedReads[int, AccountRow]] = web.AppKey("accounts", SharedReads)
SETTINGS: web.AppKey[Settings] = web.AppKey("settings", Settings)

Result = TypeVar("Result")


async def read(
    request: web.Request, online: Callable[[Connection], Awaitable[Result]], offline: Callable[[Store], Result]
) -> Result:
    """Returns what one statement says, or what the node remembers where the database is away."""
    try:
        async with request.app[DATABASE].reading() as connection:
            return await online(connection)
    except DatabaseUnavailable:
        return await request.app[STAND_IN].deputy.read(offline)
