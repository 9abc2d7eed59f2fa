"""@authenticated: the identity comes from verified credentials, never from the body."""

from collections.abc import Awaitable, Callable
from functools import wraps

from aiohttp import web

from aiopypay.answers import add_traits
from aiopypay.authenticator import Authenticator
from aiopypay.errors import (
    Forbidden,
    InvalidRequest,
    NotAuthenticated,
    NotFound,
    Overloaded,
    TooManyRequests,
    UserDeactivated,
)
from aiopypay.fields import parse_id
from aiopypay.store.users import User

AUTHENTICATOR: web.AppKey[Authenticator] = web.AppKey("authenticator", Authenticator)

_PROBLEMS = {InvalidRequest, NotAuthenticated, UserDeactivated, TooManyRequests, Overloaded}

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


def authenticated(
    owner: str | None = None, *, admin: bool = False
) -> Callable[[Callable[[web.Request, User], Awaitable[web.StreamResponse]]], Endpoint]:
    """Passes the caller to the handler, as `User`, behind the request.

    With `owner`, the name of an id in the path, everybody but that user gets Forbidden; with `admin` everybody but
    admins, as they are in this moment.
    """

    def decorate(handler: Callable[[web.Request, User], Awaitable[web.StreamResponse]]) -> Endpoint:
        @wraps(handler)
        async def check(request: web.Request) -> web.StreamResponse:
            owner_id = path_id(request, owner) if owner else None
            user = await request.app[AUTHENTICATOR].authenticate(request)
            if owner_id not in (None, user.id):
                raise Forbidden("This belongs to another user")
            if admin and not user.is_admin:
                raise Forbidden("This is for admins")
            return await handler(request, user)

        refusals = {Forbidden} if owner or admin else set()
        return add_traits(check, authenticated=True, problems=_PROBLEMS | refusals)

    return decorate


def path_id(request: web.Request, name: str) -> int:
    """Returns the id in the path. Raises NotFound for one that cannot exist."""
    try:
        return parse_id(request.match_info[name])
    except ValueError:
        raise NotFound("There is nothing under this address") from None
