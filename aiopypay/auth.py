"""@authenticated: HTTP Basic (RFC 7617, UTF-8). The identity comes from verified credentials, never from the body."""

import base64
import binascii
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import wraps

from aiohttp import web

from aiopypay.answers import add_traits
from aiopypay.batches import Batcher
from aiopypay.credentials import VerifiedCredentials
from aiopypay.database import Database
from aiopypay.errors import (
    DatabaseUnavailable,
    Forbidden,
    InvalidRequest,
    NotAuthenticated,
    NotFound,
    Overloaded,
    Problem,
    UserDeactivated,
)
from aiopypay.fields import parse_id, parse_username
from aiopypay.passwords import Passwords
from aiopypay.stand_in.changes import UserChanges
from aiopypay.stand_in.deputy import Deputy
from aiopypay.store.users import UNUSABLE_PASSWORD, User, replace_password_hash, users_by_name

_BASIC = re.compile(r"Basic +([A-Za-z0-9+/]+={0,2}) *", re.IGNORECASE)

logger = logging.getLogger(__name__)


class Authenticator:
    """Knows who sends a request. The user is read anew each time (reads of one moment share a statement)."""

    def __init__(self, database: Database, passwords: Passwords, deputy: Deputy, changes: UserChanges) -> None:
        self._database = database
        self._deputy = deputy
        self._changes = changes
        self._passwords = passwords
        self._verified = VerifiedCredentials(passwords)
        self._users: Batcher[str, User | None] = Batcher(self._read_users, batch_size=200, queue_size=2000)

    async def authenticate(self, request: web.Request) -> User:
        """Returns the caller. An unknown user takes as long as a wrong password, and both have the same answer.

        Raises NotAuthenticated, UserDeactivated, InvalidRequest, Overloaded, DatabaseUnavailable.
        """
        username, password = _basic_credentials(request.headers.getall("Authorization", []))
        user = await self._find(username)
        encoded = self._passwords.nobodys_hash
        if user is not None and user.password_hash != UNUSABLE_PASSWORD:
            encoded = user.password_hash
        if not await self._verified.verify(username, encoded, password) or user is None:
            raise NotAuthenticated("Invalid username or password")
        if not user.is_active:
            raise UserDeactivated("This user is deactivated")
        if self._passwords.is_outdated(encoded):
            await self._rehash(user, password)
        return user

    async def _find(self, username: str) -> User | None:
        try:
            parse_username(username)
        except ValueError:
            return None
        return await self._users.submit(username.lower())

    async def _read_users(self, usernames: Sequence[str]) -> list[User | Exception | None]:
        distinct = list(set(usernames))
        try:
            async with self._database.transaction() as connection:
                users: Mapping[str, User | Exception | None] = await users_by_name(connection, distinct)
        except DatabaseUnavailable:
            users = await self._deputy.users(distinct)
        return [users.get(username) for username in usernames]

    async def _rehash(self, user: User, password: str) -> None:
        try:
            encoded = await self._passwords.hash(password)
            async with self._changes.transaction(user.username) as connection:
                await replace_password_hash(connection, user.id, user.password_hash, encoded)
        except Problem as problem:
            # The login was right all the same; the next one tries again.
            logger.warning("The password hash of user %s was not renewed: %s", user.id, problem)


AUTHENTICATOR: web.AppKey[Authenticator] = web.AppKey("authenticator", Authenticator)

_PROBLEMS = {InvalidRequest, NotAuthenticated, UserDeactivated, Overloaded}

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


def authenticated(
    owner: str | None = None,
) -> Callable[[Callable[[web.Request, User], Awaitable[web.StreamResponse]]], Endpoint]:
    """Passes the caller to the handler, as `User`, behind the request.

    With `owner`, the name of an id in the path, everybody but that user gets Forbidden.
    """

    def decorate(handler: Callable[[web.Request, User], Awaitable[web.StreamResponse]]) -> Endpoint:
        @wraps(handler)
        async def check(request: web.Request) -> web.StreamResponse:
            owner_id = path_id(request, owner) if owner else None
            user = await request.app[AUTHENTICATOR].authenticate(request)
            if owner_id not in (None, user.id):
                raise Forbidden("This belongs to another user")
            return await handler(request, user)

        return add_traits(check, authenticated=True, problems=_PROBLEMS | ({Forbidden} if owner else set()))

    return decorate


def path_id(request: web.Request, name: str) -> int:
    """Returns the id in the path. Raises NotFound for one that cannot exist."""
    try:
        return parse_id(request.match_info[name])
    except ValueError:
        raise NotFound("There is nothing under this address") from None


def _basic_credentials(headers: Sequence[str]) -> tuple[str, str]:
    """Returns user name and password (RFC 7617: a password may contain colons)."""
    if not headers:
        raise NotAuthenticated("Not authenticated")
    if len(headers) > 1:
        raise InvalidRequest("Authorization: is repeated", field="Authorization")
    match = _BASIC.fullmatch(headers[0])
    try:
        decoded = base64.b64decode(match[1], validate=True).decode() if match else ""
    except (binascii.Error, UnicodeDecodeError):
        decoded = ""
    username, colon, password = decoded.partition(":")
    if not colon:
        raise NotAuthenticated("The Authorization header must be: Basic base64(username:password), in UTF-8")
    return username, password
