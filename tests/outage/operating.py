"""An operator who corrects, deactivates and sets rates in SQL while payments go on; and by the API."""

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence, Set
from decimal import Decimal
from typing import Any, TypeVar

import psycopg2
from psycopg2.extensions import connection as PgConnection  # noqa: N812 - a class with a lower-case name

from .changes import Activity, Change, Changes, Correction, Rate
from .payments import EXTERNAL, Person, next_event
from .people import the_superuser
from .postgres import PostgresServer
from .requests import ask, client
from .waiting import eventually

PAUSE_SECONDS = (0.05, 0.6)
RATES = ("0", "0.005", "0.01", "0.02", "0.03", "0.05")
DEPOSIT, QUIET = 0.8, 0.7
CENTS_BROUGHT, CENTS_TAKEN = (1, 20_000), (1, 2_000)
ACTIVE_SECONDS = 20
# How often something is changed between two rounds, which the node then knows before the next fault.
BETWEEN = 0.4

# As the service locks them: what has an owner first. Whoever writes transfers before has no place in the order of
# bookings of the account.
LOCK = "SELECT id, amount FROM accounts WHERE id = ANY(%s) ORDER BY id < 0, id FOR NO KEY UPDATE"
ORDER = """
INSERT INTO orders (id, user_id, fingerprint, status, accepted_at, posted_at)
SELECT %s, user_id, '', 'posted', now(), now() FROM accounts WHERE id = %s
"""
TRANSFER = """
INSERT INTO transfers (order_id, kind, from_account_id, to_account_id, amount, comment)
VALUES (%s, %s, %s, %s, %s, 'Correction')
"""
MOVE = "UPDATE accounts SET amount = amount + %s WHERE id = %s"
SET_ACTIVE = "UPDATE users SET is_active = %s WHERE id = %s"
SET_RATE = "UPDATE currencies SET commission = %s WHERE id = %s"

Some = TypeVar("Some", bound=Change)


class Operator:
    """Does one thing after another, of these kinds: correct, deactivate, rate in SQL, rate by the API."""

    def __init__(
        self, postgres: PostgresServer, base_url: str, people: Sequence[Person], kinds: Set[str], changes: Changes
    ) -> None:
        self._postgres = postgres
        self._base_url = base_url
        self._people = people
        self._stopped = asyncio.Event()
        self._turn_to_work = asyncio.Lock()
        self._changes = changes
        self._inactive: list[Person] = []
        # Who is not activated again before the end of the round.
        self._for_long: Person | None = None
        work: dict[str, Callable[[random.Random], Any]] = {
            "correct": self._correct,
            "deactivate": self._turn,
            "rate in SQL": self._set_rate,
            "rate by the API": self._patch_rate,
        }
        self._work = [work[kind] for kind in sorted(kinds & work.keys())]

    @contextlib.asynccontextmanager
    async def working(self, generator: random.Random) -> AsyncIterator[None]:
        """Within, they work."""
        self._stopped.clear()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._do(generator))
            try:
                yield
            finally:
                self._stopped.set()

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Within, they change nothing."""
        async with self._turn_to_work:
            yield

    async def activate_all(self) -> None:
        """Everybody is active again."""

        async def activated() -> bool:
            for person in list(self._inactive):
                await self._turn_to(person, is_active=True)
            return not self._inactive

        self._for_long = None
        await eventually(activated, ACTIVE_SECONDS, "everybody is active again")

    async def work_between(self, generator: random.Random) -> float | None:
        """Before payments go on, perhaps, deactivates somebody for the whole next round, and corrects something.

        Returns when that was done (monotonic), None where nothing was.
        """
        early = [work for work in (self._deactivate_for_long, self._correct) if self._is_to_do(work)]
        if not early or generator.random() > BETWEEN:
            return None
        for work in early:
            await work(generator)
        return time.monotonic()

    async def _do(self, generator: random.Random) -> None:
        while self._work and not self._stopped.is_set():
            async with self._turn_to_work:
                await generator.choice(self._work)(generator)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(generator.uniform(*PAUSE_SECONDS)):
                    await self._stopped.wait()

    async def _correct(self, generator: random.Random) -> None:
        people = [person for person in self._people if person.id != 1]
        quiet = [person for person in people if person.is_quiet]
        person = generator.choice(quiet if quiet and generator.random() < QUIET else people)
        account_id = generator.choice(list(person.accounts))
        is_deposit = generator.random() < DEPOSIT
        cents = generator.randint(*(CENTS_BROUGHT if is_deposit else CENTS_TAKEN))
        amount = Decimal(cents if is_deposit else -cents).scaleb(-2)
        correction = Correction(next_event(), str(uuid.uuid4()), account_id, amount)
        external = EXTERNAL[person.accounts[account_id]]

        def book(connection: PgConnection) -> None:
            ends = (external, account_id) if is_deposit else (account_id, external)
            kind = "deposit" if is_deposit else "withdrawal"
            with connection.cursor() as cursor:
                cursor.execute(LOCK, ([account_id, external],))
                cursor.execute(ORDER, (correction.order_id, account_id))
                cursor.execute(TRANSFER, (correction.order_id, kind, *ends, abs(amount)))
                cursor.execute(MOVE, (amount, account_id))
                cursor.execute(MOVE, (-amount, external))

        await self._make(correction, self._changes.corrections, book)

    def _is_to_do(self, work: Callable[[random.Random], Any]) -> bool:
        return (self._turn if work == self._deactivate_for_long else work) in self._work

    async def _deactivate_for_long(self, generator: random.Random) -> None:
        self._for_long = await self._deactivate(generator)

    async def _deactivate(self, generator: random.Random) -> Person:
        person = generator.choice([person for person in self._people if person.id != 1])
        self._inactive.append(person)
        await self._turn_to(person, is_active=False)
        return person

    async def _turn(self, generator: random.Random) -> None:
        """Deactivates somebody; or activates again who was."""
        inactive = [person for person in self._inactive if person is not self._for_long]
        if inactive:
            await self._turn_to(inactive[0], is_active=True)
        elif self._for_long is None:
            await self._deactivate(generator)

    async def _turn_to(self, person: Person, *, is_active: bool) -> None:
        change = Activity(next_event(), person.id, is_active)
        made = await self._make(change, self._changes.activities, _statement(SET_ACTIVE, is_active, person.id))
        if made and is_active:
            self._inactive.remove(person)

    async def _set_rate(self, generator: random.Random) -> None:
        currency_id, rate = generator.choice(list(EXTERNAL)), generator.choice(RATES)
        change = Rate(next_event(), currency_id, Decimal(rate))
        await self._make(change, self._changes.rates, _statement(SET_RATE, change.rate, currency_id))

    async def _patch_rate(self, generator: random.Random) -> None:
        currency_id, rate = generator.choice(list(EXTERNAL)), generator.choice(RATES)
        change = Rate(next_event(), currency_id, Decimal(rate))
        self._changes.rates.append(change)
        async with client() as session:
            url = f"{self._base_url}/currencies/{currency_id}"
            headers = the_superuser().headers
            answer, _ = await ask(session, "PATCH", url=url, headers=headers, json={"commission": rate})
        assert answer.status in (None, 200, 503), answer
        if answer.status == 200:
            change.ended, change.ended_at = answer.ended, answer.ended_at

    async def _make(self, change: Some, changes: list[Some], work: Callable[[PgConnection], None]) -> bool:
        """One transaction beside the service. What is noted of it is all that may be relied upon."""
        changes.append(change)
        outcome = await asyncio.to_thread(self._commit, work)
        if outcome is False:
            changes.remove(change)
        elif outcome:
            change.ended, change.ended_at = next_event(), time.monotonic()
        return bool(outcome)

    def _commit(self, work: Callable[[PgConnection], None]) -> bool | None:
        """Tells whether it was made; None where the answer to COMMIT was lost."""
        try:
            with self._postgres.connected() as connection:
                connection.autocommit = False
                work(connection)
                try:
                    connection.commit()
                except psycopg2.Error:
                    return None
                return True
        except psycopg2.Error:
            return False


def _statement(sql: str, *parameters: Any) -> Callable[[PgConnection], None]:
    def execute(connection: PgConnection) -> None:
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)

    return execute
