"""The writer: orders that arrive while a batch runs share the next one. One batch at a time, in every mode.

Which of those that wait are in the next batch is fair between users (`fair_batches.py`), and decided before anything is
judged: each user's orders are judged in the order in which they came, and no group is ever taken apart.

If the process dies, or the connection is lost, before COMMIT is sent, nothing of a batch is booked: its orders are
then accepted by the deputy under the same ids. After it, all of the batch or nothing is booked, and nobody knows
which: then it enters the journal whole, as it was planned. Its plan has been on disk since before COMMIT, so that
a process killed in between, or before it has recorded what was booked, finds it at its next start. A caller that
goes away changes nothing: the batch runs in a task of its own.
"""

import asyncio
import copy
import logging
import time
from collections.abc import Mapping, Sequence
from itertools import chain
from uuid import UUID

from aiopypay.batches import Batcher
from aiopypay.database import Database
from aiopypay.errors import (
    AccessChanged,
    CommitInDoubt,
    DatabaseBusy,
    DatabaseUnavailable,
    DiskHangs,
    DuplicateOrder,
    InternalError,
    Overloaded,
    Problem,
    RequestKeyReused,
)
from aiopypay.ledger import TransferOrder
from aiopypay.stand_in.acceptance import Answer
from aiopypay.stand_in.deputy import Deputy
from aiopypay.stand_in.records import Entry
from aiopypay.store.keys import reused_keys
from aiopypay.store.moments import Step
from aiopypay.store.orders import Judgement, OrderRecord, book_plans, judge_orders, lockable_accounts
from aiopypay.units import Authority, RequestKey, Round, Unit, halves, unlocked

BATCH_SIZE = 200
# Orders, of which a bulk may have a thousand.
QUEUE_SIZE = 20_000
ATTEMPTS = 3
# Each is a transaction, and nobody is answered before the last. More than a few is abuse of a key.
ROUNDS_MAX = 50
# Whose orders have waited longer for their batch than this is looked at again.
AUTHORITY_SECONDS = 1.0
# How long a batch may keep trying a database that is there but busy.
BUSY_SECONDS = 1.0

logger = logging.getLogger(__name__)


class GroupCommit:
    """Posts orders, each exactly once under its id, however many times it is sent.

    Whoever holds `writers_lock` knows that no batch runs. The last batch of settling runs under it.
    """

    def __init__(self, database: Database, deputy: Deputy, writers_lock: asyncio.Lock) -> None:
        self._database = database
        self._deputy = deputy
        self._lock = writers_lock
        self._batches: Batcher[Unit, list[Answer]] = Batcher(
            self._run,
            batch_size=BATCH_SIZE,
            queue_size=QUEUE_SIZE,
            weigh=lambda unit: len(unit.orders),
            user_of=lambda unit: unit.orders[0].user_id,
            cut=Unit.cut,
            ids_of=Unit.contents,
            join=lambda parts: list(chain.from_iterable(parts)),
        )

    async def post(self, order: TransferOrder, authority: Authority | None = None) -> OrderRecord | Entry:
        """Returns the order as it was booked, now or before, or the journal's entry where the database is away.

        Raises what the ledger rule raises, IdempotencyKeyReused, OrderRefused, Overloaded, DatabaseBusy, and the
        kinds of DatabaseUnavailable: what the node cannot stand in for. Raises AccessChanged where the authority does
        not hold any more; then nothing is booked.
        """
        [answer] = await self._batches.submit(Unit((order,), authority=authority))
        if isinstance(answer, Problem):
            raise answer
        return answer

    async def post_all(self, unit: Unit) -> list[Answer]:
        """Returns one answer an order, in order: what `post` returns or raises. A group is judged in one transaction.

        Where the key of the whole request was used before, with another content, nothing is booked, and each order's
        answer is RequestKeyReused. Raises Overloaded, and where the unit's authority does not hold any more, or cannot
        be looked up, AccessChanged or why.
        """
        return await self._batches.submit(unit)

    def refusal(self) -> Problem | None:
        """Returns what any order would be refused with now, whatever it is; None where one would be judged.

        A database that is lost and not yet missed is found out by the next order, or within a second.
        """
        return self._batches.refusal() or self._deputy.refusal()

    async def drain(self) -> None:
        """Waits until every order submitted so far has its answer."""
        await self._batches.drain()

    async def _run(self, units: Sequence[Unit]) -> list[list[Answer] | Exception]:
        """Requests with one key and content are one request, however many of them wait."""
        distinct: dict[object, Unit] = {}
        async with self._lock:
            lapsed = await _lapsed(units)
            for place, unit in enumerate(units):
                if place not in lapsed:
                    distinct.setdefault(unit.identity, unit)
            judged = dict(zip(distinct, await self._judge(list(distinct.values())), strict=True))
        if len(distinct) == len(units):
            return [*judged.values()]
        return [
            _told(unit, lapsed[place]) if place in lapsed else [copy.copy(answer) for answer in judged[unit.identity]]
            for place, unit in enumerate(units)
        ]

    async def _judge(self, units: Sequence[Unit]) -> list[list[Answer]]:
        """What cannot be judged side by side is judged in another round, which finds what this one has booked.

        What is left after ROUNDS_MAX is told to try again.
        """
        rounds: list[tuple[Sequence[Unit], dict[int, Problem], Round, list[Answer]]] = []
        while units and len(rounds) < ROUNDS_MAX:
            refusals = await self._misused_keys(units)
            this = Round([unit for place, unit in enumerate(units) if place not in refusals])
            answers = await self._post(this.orders, time.monotonic() + BUSY_SECONDS)
            rounds.append((units, refusals, this, answers))
            units = this.later
        later: list[list[Answer]] = [[DatabaseBusy() for _ in unit.orders] for unit in units]
        for units, refusals, this, answers in reversed(rounds):
            judged = iter(this.answers(answers, later))
            later = [
                [copy.copy(refusals[place]) for _ in unit.orders] if place in refusals else next(judged)
                for place, unit in enumerate(units)
            ]
        return later

    async def _post(self, orders: Sequence[TransferOrder], until: float) -> list[Answer]:
        """Posts all orders but those that are not to be judged now."""
        put_off = self._deputy.put_off(orders)
        if put_off:
            left = [order for order in orders if order.id not in put_off]
            judged = dict(zip((order.id for order in left), await self._post(left, until), strict=True))
            return [put_off.get(order.id) or judged[order.id] for order in orders]
        if not orders:
            return []
        if not self._deputy.switch.is_up:
            return await self._accept(orders)
        return await self._post_online(orders, until)

    async def _post_online(self, orders: Sequence[TransferOrder], until: float) -> list[Answer]:
        """One transaction for all. What PostgreSQL does not take whole is split until the culprit stands alone.

        A database that stays busy is not asked longer than `until` (monotonic): the rest is told so.
        """
        try:
            return await self._post_together(orders, until)
        except DatabaseUnavailable:
            return await self._accept(orders)
        except (DiskHangs, Overloaded) as problem:
            # Of these orders alone: others of their bulk may be booked.
            return [copy.copy(problem) for _ in orders]
        except (DatabaseBusy, InternalError) as failure:
            first, second = halves(orders)
            # A bulk may be busy for no fault but its size.
            is_over = time.monotonic() > until and len(orders) <= BATCH_SIZE
            if not second or (isinstance(failure, DatabaseBusy) and is_over):
                logger.error("%s orders were not booked: %s", len(orders), failure)  # noqa: TRY400 - told before
                return [copy.copy(failure) for _ in orders]
        return await self._post(first, until) + await self._post(second, until)

    async def _accept(self, orders: Sequence[TransferOrder]) -> list[Answer]:
        """Without the database. A failure that nobody has foreseen has undone all: it is to be one order's alone."""
        try:
            return await self._deputy.accept(orders)
        except Exception:
            first, second = halves(orders)
            if not second:
                logger.exception("%s orders could not be judged", len(orders))
                return [InternalError() for _ in orders]
        return await self._accept(first) + await self._accept(second)

    async def _post_together(self, orders: Sequence[TransferOrder], until: float) -> list[Answer]:
        """Tries again, under the same ids, what was in the way of others; who is locked out answers for himself."""
        failure: Problem = DatabaseBusy()
        for _ in range(ATTEMPTS):
            try:
                return await self._attempt(orders)
            except DuplicateOrder as duplicate:
                # Booked by another process in the meantime: looked up again, it is found.
                failure = duplicate
            except DatabaseBusy as busy:
                failure = busy
                # Who had the better of a conflict is about to be done; who holds a lock for long is not.
                others = orders if busy.is_conflict else unlocked(orders, await self._free_accounts(orders))
                if len(others) < len(orders):
                    posted = dict(zip((order.id for order in others), await self._post(others, until), strict=True))
                    return [posted.get(order.id) or copy.copy(busy) for order in orders]
            if time.monotonic() > until:
                break
        raise failure

    async def _misused_keys(self, units: Sequence[Unit]) -> dict[int, Problem]:
        """Returns the units, by their place, whose key was used before with another content; or cannot be looked up.

        Under the writer's lock nobody else of this process uses a key between this look and the booking.
        """
        keyed = {place: unit.key for place, unit in enumerate(units) if unit.key is not None}
        return await self._misused(keyed) if keyed else {}

    async def _misused(self, keyed: Mapping[int, RequestKey]) -> dict[int, Problem]:
        try:
            reused = await self._reused(list(keyed.values()))
        except Problem as problem:
            return {place: copy.copy(problem) for place in keyed}
        except Exception:
            if len(keyed) == 1:
                logger.exception("A request's key could not be looked up")
                return {place: InternalError() for place in keyed}
        else:
            return {place: RequestKeyReused() for number, place in enumerate(keyed) if number in reused}
        # What nobody has foreseen is to be one request's alone.
        apart = [await self._misused({place: key}) for place, key in keyed.items()]
        return {place: problem for refusals in apart for place, problem in refusals.items()}

    async def _reused(self, keys: Sequence[RequestKey]) -> set[int]:
        if self._deputy.switch.is_up:
            try:
                async with self._database.reading() as connection:
                    return await reused_keys(connection, keys)
            except DatabaseUnavailable:
                # From here on the node stands in.
                logger.debug("Keys are looked up without the database")
        return await self._deputy.reused_keys(keys)

    async def _free_accounts(self, orders: Sequence[TransferOrder]) -> set[int]:
        try:
            async with self._database.transaction() as connection:
                return await lockable_accounts(connection, orders)
        except DatabaseBusy:
            return set()

    async def _attempt(self, orders: Sequence[TransferOrder]) -> list[Answer]:
        """One transaction. Raises DatabaseUnavailable, DatabaseBusy, StatementRejected: then nothing is booked.

        Raises DiskHangs: then nothing is booked, though it may be after the next start.
        """
        async with self._deputy.moments.turn:
            return await self._book(orders, self._deputy.moments.step())

    async def _book(self, orders: Sequence[TransferOrder], step: Step) -> list[Answer]:
        judgement: Judgement | None = None
        try:
            async with self._deputy.moments.checked(self._database), self._database.transaction() as connection:
                judgement = await judge_orders(connection, orders, step, minted=True)
                # The sync of the plan hides behind the write; both are done before COMMIT is sent.
                plan = self._deputy.keep_plan(judgement.plans, step)
                records, accounts = await book_plans(connection, judgement.plans, step)
                await plan.kept(connection)
        except CommitInDoubt:
            assert judgement is not None  # noqa: S101 - COMMIT comes after it
            adopted = await self._deputy.adopt_plan(judgement.plans)
            return _in_order(orders, {**judgement.replays(orders), **adopted})
        except Exception:
            if judgement is not None and judgement.plans:
                await self._deputy.withdraw_plan(step)
            raise
        if records:
            self._deputy.record(accounts, list(records.values()), step)
        return _in_order(orders, {**judgement.replays(orders), **records})


def _told(unit: Unit, problem: Problem) -> list[Answer] | Exception:
    """To the whole request, if nothing of it is booked: it may begin anew. To each order of the rest of one."""
    return [copy.copy(problem) for _ in unit.orders] if unit.is_rest else problem


async def _lapsed(units: Sequence[Unit]) -> dict[int, Problem]:
    """Returns why units are not to be judged, by their place: those that waited for long, and whose callers changed.

    Where nobody waited this costs nothing; the reads of one batch share a statement.
    """
    judged_before = time.monotonic() - AUTHORITY_SECONDS
    waited = {
        place: unit.authority
        for place, unit in enumerate(units)
        if unit.authority is not None and unit.authority.judged_at < judged_before
    }
    if not waited:
        return {}
    held = await asyncio.gather(*(authority.holds() for authority in waited.values()), return_exceptions=True)
    problems: dict[int, Problem] = {}
    for place, holds in zip(waited, held, strict=True):
        if isinstance(holds, Problem):
            problems[place] = holds
        elif holds is not True:
            problems[place] = AccessChanged()
    return problems


def _in_order(orders: Sequence[TransferOrder], answers: Mapping[UUID, Answer]) -> list[Answer]:
    return [answers[order.id] for order in orders]
