"""Crowds that make the service verify and hash passwords, as fast as it answers them."""

import asyncio
import contextlib
import itertools
from collections.abc import Mapping

import aiohttp

from tests.outage.payments import credentials

ADDRESSES = 250
REGISTERING_ADDRESSES = [f"127.0.0.{number}" for number in range(2, 8)]
CONNECTIONS_OF_ADDRESS = 10
CHANGES_AT_ONCE = 20


def forwarded(number: int) -> dict[str, str]:
    """What a trusted proxy says of the client of this number."""
    return {"X-Forwarded-For": f"198.51.{100 + number // 250}.{1 + number % 250}:{10_000 + number}"}


async def wrong_passwords(base_url: str) -> None:
    """From 250 addresses, for users that mostly do not exist: none of them meets a limit of its own."""

    async def guess(session: aiohttp.ClientSession, number: int) -> None:
        for turn in itertools.count():
            headers = {**forwarded(number), **credentials(f"user-{number}-{turn}", "wrong")}
            await _ask(session, "GET", f"{base_url}/api/users/me", headers)

    async with _session(ADDRESSES) as session:
        await asyncio.gather(*(guess(session, number) for number in range(ADDRESSES)))


async def registrations(base_url: str) -> None:
    """From six addresses, each more than the 600 a minute that it may."""

    async def register(session: aiohttp.ClientSession, name: str) -> None:
        for turn in itertools.count():
            form = {"username": f"{name}-{turn}", "password": "correct horse battery"}
            await _ask(session, "POST", f"{base_url}/users", {}, form)

    async with contextlib.AsyncExitStack() as stack:
        work = []
        for address in REGISTERING_ADDRESSES:
            session = await stack.enter_async_context(_session(CONNECTIONS_OF_ADDRESS, local_address=address))
            work += [register(session, f"{address}-{number}") for number in range(CONNECTIONS_OF_ADDRESS)]
        await asyncio.gather(*work)


async def own_changes(base_url: str, username: str, password: str) -> None:
    """One user gives themselves a new password, time and again: the same one, so that each of them counts."""

    async def change(session: aiohttp.ClientSession) -> None:
        form = {"current_password": password, "password": password}
        while True:
            await _ask(session, "PATCH", f"{base_url}/api/users/me", credentials(username, password), form)

    async with _session(CHANGES_AT_ONCE) as session:
        await asyncio.gather(*(change(session) for _ in range(CHANGES_AT_ONCE)))


def _session(connections: int, local_address: str | None = None) -> aiohttp.ClientSession:
    local = (local_address, 0) if local_address else None
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections, local_addr=local))


async def _ask(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    headers: Mapping[str, str],
    form: Mapping[str, str] | None = None,
) -> None:
    try:
        async with session.request(method, url, headers=headers, data=form) as response:
            await response.read()
    except aiohttp.ClientError:
        await asyncio.sleep(0.1)
