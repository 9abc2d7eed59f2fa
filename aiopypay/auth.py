"""@authenticated: the identity comes from verified credentials, never from the body.

A caller is judged from the head of the request, before its body is read, and again once all of it is here, where it
was not: a body may take its time. What waits longer still judges once more right before it acts: the writer, for orders
that waited for their batch (`AUTHORITY`), and the transactions of all other changes, under a lock (`lock_caller`). They
raise AccessChanged, and here the request begins anew, its body read.
"""

import time
from collections.abc import Awaitable, Callable
from functools import wraps

from aiohttp import web

from aiopypay.answers import add_traits, traits_of
from aiopypay.authenticator import Authenticator
from aiopypay.errors import (
    AccessChanged,
    Forbidden,
    InvalidRequest,
    NotAuthenticated,
    NotFound,
    Overloaded,
    TooManyRequests,
    UserDeactivated,
)
from aiopypay.fields import parse_id
from aiopypay.forms import read_body
from aiopypay.store.users import User
from aiopypay.units import Authority

# Each further one takes another change of the caller in between.
ATTEMPTS = 3

AUTHENTICATOR: web.AppKey[Authenticator] = web.AppKey("authenticator", Authenticator)

AUTHORITY: web.RequestKey[Authority] = web.RequestKey("authority", Authority)

_PROBLEMS = {InvalidRequest, NotAuthenticated, UserDeactivated, TooManyRequests, Overloaded, AccessChanged}

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


def authenticated(
    owner: str | None = None, *, admin: bool = False
) -> Callable[[Callable[[web.Request, User], Awaitable[web.StreamResponse]]], Endpoint]:
    """Passes the caller to the handler, as `User`, behind the request.

    With `owner`, the name of an id in the path, everybody but that user gets Forbidden; with `admin` everybody but
    admins, as they are in this moment.
    """

    async def judge(request: web.Request) -> User:
        owner_id = path_id(request, owner) if owner else None
        authenticator = request.app[AUTHENTICATOR]
        judged_at = time.monotonic()
        user = await authenticator.authenticate(request)
        if owner_id not in (None, user.id):
            raise Forbidden("This belongs to another user")
        if admin and not user.is_admin:
            raise Forbidden("This is for admins")
        request[AUTHORITY] = Authority(judged_at, lambda: authenticator.is_unchanged(user))
        return user

    def decorate(handler: Callable[[web.Request, User], Awaitable[web.StreamResponse]]) -> Endpoint:
        body_bytes_max = traits_of(handler).body_bytes_max

        @wraps(handler)
        async def check(request: web.Request) -> web.StreamResponse:
            is_here = request.content.is_eof()
            user = await judge(request)
            if body_bytes_max and not is_here:
                await read_body(request, body_bytes_max)
                user = await judge(request)
            for _ in range(ATTEMPTS):
                try:
                    return await handler(request, user)
                except AccessChanged:
                    user = await judge(request)
            raise AccessChanged

        refusals = {Forbidden} if owner or admin else set()
        return add_traits(check, authenticated=True, problems=_PROBLEMS | refusals)

    return decorate


def path_id(request: web.Request, name: str) -> int:
    """Returns the id in the path. Raises NotFound for one that cannot exist."""
    try:
        return parse_id(request.match_info[name])
    except ValueError:
        raise NotFound("There is nothing under this address") from None
