"""Ordinary users beside an attack: their payments, somebody's first login, and the memory that it all takes."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Self

import aiohttp

from tests.outage.caller import account_in
from tests.outage.payments import Person, credentials
from tests.outage.people import register_people
from tests.outage.service import ServiceProcess

CONNECTIONS = 16
ANSWER_SECONDS = 10
_numbers = itertools.count()


class Shopkeepers:
    """Users who pay each other, on connections that are open before any attack begins."""

    def __init__(self, service: ServiceProcess, people: Sequence[Person], session: aiohttp.ClientSession) -> None:
        self.service = service
        self.people = people
        self._session = session

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, service: ServiceProcess) -> AsyncIterator[Self]:
        """Registers them."""
        people = await register_people(service.base_url, [f"shopkeeper{number}" for number in range(CONNECTIONS)])
        connector = aiohttp.TCPConnector(limit=CONNECTIONS)
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            yield cls(service, people, session)

    async def payments_a_second(self, seconds: float) -> float:
        """All pay for so long, one after the other each; returns how many payments a second were accepted."""
        until = time.monotonic() + seconds
        counts = await asyncio.gather(*(self._pay_until(payer, until) for payer in self.people))
        return sum(counts) / seconds

    async def first_login_seconds(self) -> float:
        """Somebody new registers, then logs in elsewhere for the first time; returns how long the login took.

        The credentials that a registration leaves behind are not those that are sent: the user's name is in capitals.
        """
        (person,) = await register_people(self.service.base_url, [f"newcomer{next(_numbers)}"])
        return await login_seconds(self.service.base_url, person.username.upper(), person.password)

    def resident_mib(self) -> float:
        """The memory that the service holds."""
        return resident_mib(self.service.pid)

    async def _pay_until(self, payer: Person, until: float) -> int:
        url = f"{self.service.base_url}/users/{payer.id}/transfers"
        payee = self.people[(self.people.index(payer) + 1) % len(self.people)]
        form = {"from": account_in(payer, "USD"), "to": account_in(payee, "USD"), "amount": "0.01"}
        accepted = 0
        while time.monotonic() < until:
            with contextlib.suppress(TimeoutError, aiohttp.ClientError):
                async with self._session.post(url, data=form, headers=payer.headers) as response:
                    accepted += response.status in (200, 202) and time.monotonic() < until
        return accepted


async def login_seconds(base_url: str, username: str, password: str) -> float:
    """Logs in on a connection of its own; returns how long it took. Fails where it is refused."""
    started = time.monotonic()
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, headers=credentials(username, password)) as session:
        async with session.get(f"{base_url}/api/users/me") as response:
            assert response.status == 200, (response.status, await response.text())
    return time.monotonic() - started


def resident_mib(pid: int) -> float:
    """The resident memory of a process, MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20
