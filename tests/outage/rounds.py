"""Rounds of faults under load: pay, break something at a random moment, pay again, ask for every outcome, check."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from .checker import check
from .ledger import read_ledger
from .load import Load, Payment, Person, register_people
from .postgres import PostgresServer
from .service import ServiceProcess
from .waiting import eventually

PEOPLE = ["anna", "bert", "cleo", "dora", "emil", "fred", "gina", "hugo"]
LATEST_FAULT_SECONDS = 1.0
BACK_SECONDS = 20

Fault = Callable[[random.Random], Awaitable[None]]


class Rounds:
    """Rounds on one cluster and one node; each draws from the seed and its number, and reports its figures."""

    def __init__(
        self, postgres: PostgresServer, service: ServiceProcess, seed: int, report: Callable[[str], None]
    ) -> None:
        self._postgres = postgres
        self._service = service
        self._seed = seed
        self._report = report
        self._people: list[Person] = []
        self._payments: list[Payment] = []

    async def begin(self) -> None:
        """Starts the service and registers those who pay."""
        self._service.start()
        await self._service.wait_ready()
        self._people = await register_people(self._service.base_url, PEOPLE)

    async def run(self, number: int, fault: Fault) -> None:
        """One round. Fails with the checker's list of violations."""
        seed = self._seed + number
        generator = random.Random(seed)
        load = Load(self._service.base_url, self._people, seed)
        async with load.running():
            await eventually(lambda: load.answered(200) > 0, BACK_SECONDS, "the first payment of the round")
            await asyncio.sleep(generator.uniform(0, LATEST_FAULT_SECONDS))
            await fault(generator)
            before = load.answered(200)
            back = await eventually(lambda: load.answered(200) > before + 10, BACK_SECONDS, "payments after the fault")
        landed = self._booked_although_unknown(load)
        await load.resolve()
        self._payments += load.payments
        name = fault.__name__.replace("_", " ")
        self._report(
            f"round {number}, {name}, seed {seed}: {load.counts()}; "
            f"booked although their client was not told {landed}; paid again after {back:.2f} s"
        )
        with self._postgres.connected() as connection:
            check(connection, self._payments)

    def _booked_although_unknown(self, load: Load) -> int:
        """How many payments a retry that is not recognised would book twice."""
        with self._postgres.connected() as connection:
            booked = {transfer.comment for transfer in read_ledger(connection).transfers}
        return sum(payment.comment in booked and not payment.is_known for payment in load.payments)

    async def end(self) -> None:
        """A clean stop of the service, and a last look at the ledger."""
        await self._service.terminate()
        with self._postgres.connected() as connection:
            check(connection, self._payments)
