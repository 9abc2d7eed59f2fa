"""What both routes of registration share, and whoever sets a password."""

from aiohttp import web

from aiopypay.auth import AUTHENTICATOR
from aiopypay.client_address import throttled_address
from aiopypay.errors import UsernameTaken
from aiopypay.handlers import DATABASE, PASSWORDS, SETTINGS, STAND_IN, THROTTLE
from aiopypay.idempotency import idempotency_key
from aiopypay.password_rules import check_new_password
from aiopypay.passwords import Work
from aiopypay.random_ids import uuid7
from aiopypay.store.users import add_user, open_first_accounts, registered_user
from aiopypay.throttling import refused_slowly


async def hashed(request: web.Request, username: str, password: str, work: Work, source: str) -> str:
    """Returns the hash of a user's new password; the work and its source (an address, or a user) tell whose turn it is.

    Raises InvalidRequest for one that may not be set, TooManyRequests, Overloaded.
    """
    check_new_password(password, username, request.app[SETTINGS].password_min_length)
    async with refused_slowly():
        return await request.app[PASSWORDS].hash(password, work, source)


async def register(request: web.Request, username: str, password: str, full_name: str) -> int:
    """Registers a user with an account in each currency, in one transaction; returns their id.

    The same registration sent again under its Idempotency-Key is answered as the first one, also where the first
    one's outcome was unknown. Raises InvalidRequest, UsernameTaken, TooManyRequests, Overloaded, DatabaseUnavailable.
    """
    settings = request.app[SETTINGS]
    key = idempotency_key(request)
    address = throttled_address(request, settings.trusted_proxies)
    async with refused_slowly():
        request.app[THROTTLE].registration(address, settings.registrations_per_minute)
    before = await _registered(request, key, username, password, full_name)
    if before is not None:
        return before
    password_hash = await hashed(request, username, password, Work.REGISTRATION, address)
    try:
        async with request.app[STAND_IN].changes.transaction(username, is_new=True) as connection:
            user_id = await add_user(connection, username, full_name, password_hash, key)
            if user_id is None:
                raise _taken()
            await open_first_accounts(connection, user_id, uuid7(), settings.signup_credit)
    except UsernameTaken:
        # Perhaps by a first attempt under this key, which was still under way when this one looked.
        before = await _registered(request, key, username, password, full_name)
        if before is None:
            raise
        return before
    return user_id


async def _registered(
    request: web.Request, key: str | None, username: str, password: str, full_name: str
) -> int | None:
    """Returns the id of the user whom the same request has registered, None where nobody has this name yet.

    The password is verified, and throttled, as at a login; it is kept nowhere else. Raises UsernameTaken.
    """
    if key is None:
        return None
    async with request.app[DATABASE].reading() as connection:
        found = await registered_user(connection, username)
    if found is None:
        return None
    user, registration_key = found
    is_same = (registration_key, user.username, user.full_name) == (key, username, full_name)
    if not is_same or not await request.app[AUTHENTICATOR].matches(request, user, password):
        raise _taken()
    return user.id


def _taken() -> UsernameTaken:
    return UsernameTaken("username: is taken", field="username")
