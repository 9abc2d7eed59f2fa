"""Rounds of faults under load: pay, break something at a random moment, pay again, ask for every outcome, check."""

import asyncio
import contextlib
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from .beside import Beside
from .bookings import Bookings
from .changes import SEEN_SECONDS, Outage
from .checker import check
from .draws import EVERYTHING
from .ledger import read_ledger
from .load import Load
from .newcomers import Newcomers
from .one_node import excused_refusals
from .operating import Operator
from .payments import Payment, Person, next_event
from .people import register_people, the_superuser
from .postgres import PostgresServer
from .service import COMMAND, ServiceProcess
from .waiting import Stopwatch, eventually

PEOPLE = ["anna", "bert", "cleo", "dora", "emil", "fred", "gina", "hugo"]
QUIET = ["gina", "hugo"]
LATEST_FAULT_SECONDS = 0.6
BACK_SECONDS = 30
# Histories stay short enough to be read whole after each round.
ROUNDS_OF_A_DATABASE = 6
# What was changed between two rounds is known before the fault.
KNOWN_SECONDS = SEEN_SECONDS

# What an operator changes while payments go on.
CHANGES = {"correct", "deactivate", "rate in SQL", "rate by the API"}
LARGE_BULKS = "large bulks in doubt"
LISTS = "lists of accounts"
# What the product cannot take yet; whatever makes it hold takes the name away.
NOT_YET: frozenset[str] = frozenset()
# As long as what is in doubt must fit a settling batch, bulks are smaller.
MIX = replace(EVERYTHING, large_sizes=(200, 300)) if LARGE_BULKS in NOT_YET else EVERYTHING

IN_DOUBT = re.compile(r"A batch of (\d+) orders (?:is|was) in doubt")

Fault = Callable[[random.Random], Awaitable[None]]


@dataclass
class Totals:
    """What all rounds of a test add up to."""

    rounds: int = 0
    sent: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    in_doubt: int = 0
    accepted: int = 0
    refused: int = 0
    reads: int = 0
    to_stand_in: list[float] = field(default_factory=list)
    to_online: list[float] = field(default_factory=list)

    def line(self, name: str, seed: int) -> str:
        """One line for the record. Lost and doubled are 0, or the checker would have failed."""
        told = ", ".join(f"{label} ×{count}" for label, count in sorted(self.labels.items()))
        return (
            f"{name}: {self.rounds} rounds, seed {seed}: sent {self.sent}; {told}; accepted offline {self.accepted}, "
            f"in doubt {self.in_doubt}, reads {self.reads}, lost 0, doubled 0, refused at settling 0 but "
            f"{self.refused} named exceptions; "
            f"to stand-in {_spread(self.to_stand_in)}, to online {_spread(self.to_online)}"
        )


class Rounds:
    """Rounds on one cluster, with one node; each draws from the seed and its number, and reports its figures."""

    def __init__(
        self,
        postgres: PostgresServer,
        new_service: Callable[[], ServiceProcess],
        seed: int,
        report: Callable[[str], None],
    ) -> None:
        self.postgres = postgres
        self._new_service = new_service
        self._seed = seed
        self._report = report
        self._people: list[Person] = []
        self._payments: list[Payment] = []
        self._beside = Beside()
        self._changed_at: float | None = None
        self._in_doubt_before = 0
        self._named_before = 0
        self.totals = Totals()
        self.service = new_service()
        # What runs the service; and the file that is there while the disk of the node hangs.
        self.command: Sequence[str] = COMMAND
        self.hung = postgres.directory / "hung"
        self.load: Load | None = None
        self.newcomers = Newcomers(self.service.base_url)
        self.operator = self._new_operator()

    async def run(self, name: str, rounds: int, faults: Sequence[Fault]) -> None:
        """Faults take turns. Fails with the checker's list of violations."""
        # A few rounds do not come to all faults: the seed says which one is first.
        for number in range(rounds):
            if number % ROUNDS_OF_A_DATABASE == 0:
                await self._begin(anew=number > 0)
            await self._round(number, faults[(self._seed + number) % len(faults)])
        await self._end()
        self._report(self.totals.line(name, self._seed))

    def note_replay(self) -> None:
        """Everything has been booked again into a restored database."""
        self._beside.replayed = next_event()

    async def start_service(self) -> None:
        """Starts the service; returns when it serves."""
        self.service.start(command=self.command)
        await self.service.wait_ready()

    async def _begin(self, *, anew: bool) -> None:
        """A database and a node that know nothing, and people who pay."""
        if anew:
            await self._end()
            self.service.remove()
            await asyncio.to_thread(self.postgres.new_database)
            self.service = self._new_service()
        await self.start_service()
        self._people = [the_superuser(), *await register_people(self.service.base_url, PEOPLE)]
        for person in self._people:
            person.is_quiet = person.username in QUIET
        self._payments, self._in_doubt_before, self._named_before = [], 0, 0
        self.newcomers = Newcomers(self.service.base_url)
        self._beside = Beside(newcomers=self.newcomers, lists_are_whole=LISTS not in NOT_YET)
        self.operator = self._new_operator()
        await self.service.wait_filled()

    def _new_operator(self) -> Operator:
        kinds = CHANGES - NOT_YET
        return Operator(self.postgres, self.service.base_url, self._people, kinds, self._beside.changes)

    async def _round(self, number: int, fault: Fault) -> None:
        seed = self._seed + number
        generator = random.Random(seed)
        payees = self.newcomers.people
        load = self.load = Load(self.service.base_url, self._people, seed, mix=MIX, payees=payees)
        round_began = time.monotonic()
        async with load.running(), self._others(load, seed):
            await eventually(lambda: load.answered(200) > 0, BACK_SECONDS, "the first payment of the round")
            await asyncio.sleep(max(generator.uniform(0, LATEST_FAULT_SECONDS), self._until_known()))
            began = time.monotonic()
            await fault(generator)
            before = load.answered(200)
            back = await self.service.wait_mode("online", BACK_SECONDS)
            await eventually(lambda: load.answered(200) > before + 10, BACK_SECONDS, "payments after the fault")
        await asyncio.to_thread(self.postgres.wait_up)
        landed = await asyncio.to_thread(self._booked_although_unknown, load)
        loaded = time.monotonic() - round_began
        await self.operator.activate_all()
        await load.resolve()
        await load.follow()
        await self.service.wait_mode("online", BACK_SECONDS)
        resolved = time.monotonic() - round_began - loaded
        self._payments += load.payments
        self._beside.reads += load.reads
        self._beside.openings += load.openings
        # A busy machine may have lost the database before anybody took it.
        lost_at = min(began, load.first_answered(202, round_began) or began)
        self._beside.changes.outages.append(Outage(round_began, lost_at))
        watch = Stopwatch()
        named = await asyncio.to_thread(self._check)
        checked = watch.seconds
        self._record(number, seed, fault.__name__.replace("_", " "), load, began, back, landed, named)
        took = time.monotonic() - round_began
        self._report(f"took {took:.1f} s: load {loaded:.1f}, resolving {resolved:.1f}, checking {checked:.1f}")
        self._changed_at = await self.operator.work_between(generator)

    @contextlib.asynccontextmanager
    async def _others(self, load: Load, seed: int) -> AsyncIterator[None]:
        async with self.newcomers.living(load, random.Random(f"{seed}/newcomers")):
            async with self.operator.working(random.Random(f"{seed}/operator")):
                yield

    def _until_known(self) -> float:
        """The seconds until the node must know what was changed before the round."""
        if self._changed_at is None:
            return 0
        return self._changed_at + KNOWN_SECONDS - time.monotonic()

    def _record(
        self, number: int, seed: int, name: str, load: Load, began: float, back: float, landed: int, named: int
    ) -> None:
        first = load.first_answered(202, began)
        doubts = sum(map(int, IN_DOUBT.findall(self.service.whole_log())))
        in_doubt, self._in_doubt_before = doubts - self._in_doubt_before, doubts
        named, self._named_before = named - self._named_before, named
        totals = self.totals
        totals.rounds += 1
        totals.sent += len(load.payments)
        totals.labels.update(answer.label for payment in load.payments for answer in payment.answers)
        totals.in_doubt += in_doubt
        totals.accepted += sum(payment.accepted is not None for payment in load.payments)
        totals.refused += named
        totals.reads += len(load.reads)
        if first is not None:
            totals.to_stand_in.append(first - began)
        totals.to_online.append(back)
        self._report(
            f"round {number}, {name}, seed {seed}: {load.counts()}; "
            f"in doubt {in_doubt}; refused at settling, named exceptions {named}; "
            f"booked although their client was not told {landed}; "
            f"to stand-in {'-' if first is None else f'{first - began:.2f} s'}; to online {back:.2f} s"
        )

    def _check(self) -> int:
        """Returns how many orders of all rounds on this database were refused for a reason that has a name."""
        with self.postgres.connected() as connection:
            check(connection, self._payments, beside=self._beside)
            return len(excused_refusals(read_ledger(connection), self._payments, self._beside.changes)[0])

    def _booked_although_unknown(self, load: Load) -> int:
        """How many payments a retry that is not recognised would book twice."""
        with self.postgres.connected() as connection:
            bookings = Bookings(read_ledger(connection))
        return sum(bool(bookings.of(payment)) and not payment.is_known for payment in load.payments)

    async def _end(self) -> None:
        """A clean stop of the service, and a last look at the ledger."""
        await self.service.terminate()
        await asyncio.to_thread(self._check)


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    ordered = sorted(seconds)
    return f"median {ordered[len(ordered) // 2]:.2f} s, most {ordered[-1]:.2f} s"
