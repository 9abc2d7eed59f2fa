"""What both routes of registration share, and whoever sets a password."""

from aiohttp import web

from aiopypay.client_address import throttled_address
from aiopypay.errors import InvalidRequest, UsernameTaken
from aiopypay.handlers import PASSWORDS, SETTINGS, STAND_IN, THROTTLE
from aiopypay.passwords import Work
from aiopypay.random_ids import uuid7
from aiopypay.store.users import add_user, open_first_accounts
from aiopypay.throttling import refused_slowly


async def hashed(request: web.Request, password: str, work: Work, source: str) -> str:
    """Returns the hash of a new password; whose turn it is, is told by the work and its source (an address, or a user).

    Raises InvalidRequest for one that is too short, TooManyRequests, Overloaded.
    """
    shortest = request.app[SETTINGS].password_min_length
    if len(password) < shortest:
        raise InvalidRequest(f"password: must be at least {shortest} characters long", field="password")
    async with refused_slowly():
        return await request.app[PASSWORDS].hash(password, work, source)


async def register(request: web.Request, username: str, password: str, full_name: str) -> int:
    """Registers a user with an account in each currency, in one transaction; returns their id.

    Raises InvalidRequest, UsernameTaken, TooManyRequests, Overloaded, DatabaseUnavailable.
    """
    settings = request.app[SETTINGS]
    address = throttled_address(request, settings.trusted_proxies)
    async with refused_slowly():
        request.app[THROTTLE].registration(address, settings.registrations_per_minute)
    password_hash = await hashed(request, password, Work.REGISTRATION, address)
    async with request.app[STAND_IN].changes.transaction(username, is_new=True) as connection:
        user_id = await add_user(connection, username, full_name, password_hash)
        if user_id is None:
            raise UsernameTaken("username: is taken", field="username")
        await open_first_accounts(connection, user_id, uuid7(), settings.signup_credit)
    return user_id
