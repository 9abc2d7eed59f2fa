"""A node that knows everybody, its database, and clients: what most tests of an outage begin with."""

import asyncio
from dataclasses import dataclass

from .checker import check
from .load import Load, Person, register_people, the_superuser
from .postgres import PostgresServer
from .rounds import PEOPLE
from .service import ServiceProcess
from .waiting import eventually

PAID_SECONDS = 20


@dataclass
class Site:
    """The clients of `load` pay while it runs."""

    postgres: PostgresServer
    service: ServiceProcess
    people: list[Person]
    load: Load

    async def paid(self, status: int, times: int = 20) -> None:
        """Waits until so many more payments were answered with this status."""
        before = self.load.answered(status)
        await eventually(
            lambda: self.load.answered(status) >= before + times, PAID_SECONDS, f"payments answered {status}"
        )

    async def take_database(self) -> None:
        """Stops PostgreSQL."""
        await asyncio.to_thread(self.postgres.stop)

    async def bring_database(self) -> None:
        """Starts PostgreSQL."""
        await asyncio.to_thread(self.postgres.start)

    async def finish(self) -> None:
        """Every payment has its outcome, and the ledger holds."""
        await self.load.resolve()
        await self.load.follow()
        with self.postgres.connected() as connection:
            check(connection, self.load.payments)


async def make_site(postgres: PostgresServer, service: ServiceProcess, seed: int, *, clients: int = 8) -> Site:
    """The service is running; people register, and the node has remembered them."""
    await service.wait_ready()
    people = [the_superuser(), *await register_people(service.base_url, PEOPLE)]
    await service.wait_filled()
    return Site(postgres, service, people, Load(service.base_url, people, seed, clients=clients))
