"""Who sends a request: HTTP Basic (RFC 7617, UTF-8) or a bearer token (RFC 6750), for a user as they are now."""

import base64
import binascii
import logging
import re
from collections.abc import Sequence

from aiohttp import web
from msgspec.structs import replace

from aiopypay.client_address import throttled_address
from aiopypay.credentials import VerifiedCredentials
from aiopypay.database import Database
from aiopypay.errors import InvalidRequest, NotAuthenticated, Problem, UserDeactivated
from aiopypay.fields import parse_username
from aiopypay.passwords import Match, Passwords, Work
from aiopypay.settings import Network
from aiopypay.shared_reads import SharedReads
from aiopypay.stand_in.changes import UserChanges
from aiopypay.stand_in.deputy import Deputy
from aiopypay.store.users import UNUSABLE_PASSWORD, User, replace_password_hash, users_by_name
from aiopypay.throttling import Throttle, refused_slowly
from aiopypay.tokens import Tokens

_BASIC = re.compile(r"Basic +([A-Za-z0-9+/]+={0,2}) *", re.IGNORECASE)
_BEARER = re.compile(r"Bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)

# How often a login whose user gets another password meanwhile begins anew.
LOGIN_ATTEMPTS = 3

logger = logging.getLogger(__name__)


class Authenticator:
    """Knows who sends a request. The user is read anew each time (reads of one moment share a statement)."""

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        *,
        deputy: Deputy,
        changes: UserChanges,
        tokens: Tokens,
        throttle: Throttle,
        trusted_proxies: Sequence[Network],
    ) -> None:
        self._changes = changes
        self._passwords = passwords
        self._tokens = tokens
        self._trusted_proxies = trusted_proxies
        self._verified = VerifiedCredentials(passwords, throttle)
        self._users: SharedReads[str, User] = SharedReads(database, users_by_name, deputy.users)

    async def authenticate(self, request: web.Request) -> User:
        """Returns the caller. An unknown user takes as long as a wrong password, and both have the same answer.

        Raises NotAuthenticated, UserDeactivated, InvalidRequest, TooManyRequests, Overloaded, DatabaseUnavailable.
        """
        headers = request.headers.getall("Authorization", [])
        if not headers:
            raise NotAuthenticated("Not authenticated")
        if len(headers) > 1:
            raise InvalidRequest("Authorization: is repeated", field="Authorization")
        address = throttled_address(request, self._trusted_proxies)
        user = await self._user_of_known_header(headers[0], address)
        if user is not None:
            return user
        bearer = _BEARER.fullmatch(headers[0])
        if bearer:
            return await self._user_of_token(bearer[1])
        username, password = _basic_credentials(headers[0])
        user = await self.log_in(request, username, password)
        self._verified.keep_header(headers[0], username, user.password_hash, password, address)
        return user

    async def log_in(self, request: web.Request, username: str, password: str) -> User:
        """Returns the user of this name and password, as they are after its verification.

        Raises what `authenticate` raises.
        """
        user = await self._find(username)
        for _ in range(LOGIN_ATTEMPTS):
            match = await self._match(request, username, user, password)
            if not match or user is None:
                break
            verified, user = user, await self._find(username)
            # argon2 and its queue took their time.
            if user is not None and user.password_hash == verified.password_hash:
                _check_active(user)
                if match is Match.AS_TYPED or self._passwords.is_outdated(user.password_hash):
                    return await self._rehashed(user, password)
                return user
        raise NotAuthenticated("Invalid username or password")

    async def matches(self, request: web.Request, user: User, password: str) -> bool:
        """Tells whether this is the user's password. Raises TooManyRequests, Overloaded."""
        return bool(await self._match(request, user.username, user, password))

    async def is_unchanged(self, user: User) -> bool:
        """Tells whether the user is still all that they were. Raises what reading them raises."""
        return await self._users.get(user.username.lower()) == user

    async def _match(self, request: web.Request, username: str, user: User | None, password: str) -> Match:
        address = throttled_address(request, self._trusted_proxies)
        encoded = UNUSABLE_PASSWORD if user is None else user.password_hash
        if encoded == UNUSABLE_PASSWORD:
            encoded = self._passwords.nobodys_hash
        async with refused_slowly():
            return await self._verified.verify(username, encoded, password, address)

    async def _user_of_known_header(self, header: str, address: str) -> User | None:
        """Returns the user of a header that was right before and still is; None for any other, which says nothing."""
        known = self._verified.known_header(header, address)
        if known is None:
            return None
        user = await self._users.get(known.username)
        if user is None or user.password_hash != known.encoded:
            return None
        _check_active(user)
        return user

    async def _user_of_token(self, token: str) -> User:
        claims = self._tokens.claims(token)
        user = await self._find(claims.username)
        if user is None or not self._tokens.fits(claims, user) or not user.is_active:
            raise NotAuthenticated("The token is not valid, or no longer")
        return user

    async def _find(self, username: str) -> User | None:
        try:
            parse_username(username)
        except ValueError:
            return None
        return await self._users.get(username.lower())

    async def _rehashed(self, user: User, password: str) -> User:
        try:
            encoded = await self._passwords.hash(password, Work.CHANGE, user.username)
            async with self._changes.transaction(user.username) as connection:
                renewed = await replace_password_hash(connection, user.id, user.password_hash, encoded)
        except Problem as problem:
            # The login was right all the same; the next one tries again.
            logger.warning("The password hash of user %s was not renewed: %s", user.id, problem)
            return user
        return replace(user, password_hash=encoded) if renewed else user


def _check_active(user: User) -> None:
    if not user.is_active:
        raise UserDeactivated("This user is deactivated")


def _basic_credentials(header: str) -> tuple[str, str]:
    """Returns user name and password (RFC 7617: a password may contain colons)."""
    match = _BASIC.fullmatch(header)
    try:
        decoded = base64.b64decode(match[1], validate=True).decode() if match else ""
    except (binascii.Error, UnicodeDecodeError):
        decoded = ""
    username, colon, password = decoded.partition(":")
    if not colon:
        raise NotAuthenticated(
            "The Authorization header must be: Basic base64(username:password), in UTF-8, or: Bearer and a token"
        )
    return username, password
