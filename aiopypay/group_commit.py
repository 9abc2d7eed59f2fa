"""The writer: orders that arrive while a batch runs share the next one. One batch at a time, in every mode.

If the process dies, or the connection is lost, before COMMIT is sent, nothing of a batch is booked: its orders are
then accepted by the deputy under the same ids. After it, all of the batch or nothing is booked, and nobody knows
which: then it enters the journal whole, as it was planned. Its plan has been on disk since before COMMIT, so that
a process killed in between finds it at its next start. A caller that goes away changes nothing: the batch runs in
a task of its own.
"""

import asyncio
import copy
import logging
import time
from collections.abc import Mapping, Sequence
from uuid import UUID

from aiopypay.batches import Batcher
from aiopypay.database import Database
from aiopypay.errors import CommitInDoubt, DatabaseBusy, DatabaseUnavailable, DuplicateOrder, InternalError, Problem
from aiopypay.ledger import TransferOrder
from aiopypay.stand_in.acceptance import Answer
from aiopypay.stand_in.deputy import Deputy
from aiopypay.stand_in.records import Entry
from aiopypay.store.orders import Judgement, OrderRecord, book_plans, judge_orders, lockable_accounts

BATCH_SIZE = 200
QUEUE_SIZE = 5_000
ATTEMPTS = 3
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
        self._batches: Batcher[TransferOrder, OrderRecord | Entry] = Batcher(
            self._run, batch_size=BATCH_SIZE, queue_size=QUEUE_SIZE
        )

    async def post(self, order: TransferOrder) -> OrderRecord | Entry:
        """Returns the order as it was booked, now or before, or the journal's entry where the database is away.

        Raises what the ledger rule raises, IdempotencyKeyReused, OrderRefused, Overloaded, DatabaseBusy, and the
        kinds of DatabaseUnavailable: what the node cannot stand in for.
        """
        return await self._batches.submit(order)

    async def drain(self) -> None:
        """Waits until every order submitted so far has its answer."""
        await self._batches.drain()

    async def _run(self, orders: list[TransferOrder]) -> list[Answer]:
        """Two orders with one id and content are one order; another content under the same id is judged after it."""
        first: dict[UUID, TransferOrder] = {}
        for order in orders:
            first.setdefault(order.id, order)
        async with self._lock:
            answers = await self._post(list(first.values()), time.monotonic() + BUSY_SECONDS)
        posted = dict(zip(first, answers, strict=True))
        later = [order for order in orders if order.fingerprint != first[order.id].fingerprint]
        others = iter(await self._run(later) if later else [])
        return [
            posted[order.id] if order.fingerprint == first[order.id].fingerprint else next(others) for order in orders
        ]

    async def _post(self, orders: Sequence[TransferOrder], until: float) -> list[Answer]:
        """One transaction for all. What PostgreSQL does not take whole is split until the culprit stands alone.

        A database that stays busy is not asked longer than `until` (monotonic): the rest is told so.
        """
        if not orders:
            return []
        if not self._deputy.switch.is_up:
            return await self._deputy.accept(orders)
        try:
            return await self._post_together(orders, until)
        except DatabaseUnavailable:
            return await self._deputy.accept(orders)
        except (DatabaseBusy, InternalError) as failure:
            if len(orders) == 1 or (isinstance(failure, DatabaseBusy) and time.monotonic() > until):
                logger.error("%s orders were not booked: %s", len(orders), failure)  # noqa: TRY400 - told before
                return [copy.copy(failure) for _ in orders]
        half = len(orders) // 2
        return await self._post(orders[:half], until) + await self._post(orders[half:], until)

    async def _post_together(self, orders: Sequence[TransferOrder], until: float) -> list[Answer]:
        """Tries again, under the same ids, what was in the way of others; who is locked out answers for himself."""
        failure: Problem = DatabaseBusy("The database is busy. Nothing was booked; try again.")
        for _ in range(ATTEMPTS):
            try:
                return await self._attempt(orders)
            except DuplicateOrder as duplicate:
                # Booked by another process in the meantime: looked up again, it is found.
                failure = duplicate
            except DatabaseBusy as busy:
                failure = busy
                free = await self._free_accounts(orders)
                others = [order for order in orders if free.issuperset(order.account_ids)]
                if len(others) < len(orders):
                    posted = dict(zip((order.id for order in others), await self._post(others, until), strict=True))
                    return [posted.get(order.id) or copy.copy(busy) for order in orders]
            if time.monotonic() > until:
                break
        raise failure

    async def _free_accounts(self, orders: Sequence[TransferOrder]) -> set[int]:
        try:
            async with self._database.transaction() as connection:
                return await lockable_accounts(connection, orders)
        except DatabaseBusy:
            return set()

    async def _attempt(self, orders: Sequence[TransferOrder]) -> list[Answer]:
        """One transaction. Raises DatabaseUnavailable, DatabaseBusy, StatementRejected: then nothing is booked."""
        judgement: Judgement | None = None
        try:
            async with self._database.transaction() as connection:
                judgement = await judge_orders(connection, orders, minted=True)
                # The sync of the plan hides behind the write; both are done before COMMIT is sent.
                plan_kept = asyncio.create_task(self._deputy.keep_plan(judgement.plans))
                try:
                    records, accounts = await book_plans(connection, judgement.plans)
                finally:
                    await plan_kept
        except CommitInDoubt:
            assert judgement is not None  # noqa: S101 - COMMIT comes after it
            adopted = await self._deputy.adopt_plan(judgement.plans)
            return _in_order(orders, {**judgement.replays(orders), **adopted})
        except Exception:
            if judgement is not None and judgement.plans:
                await self._deputy.withdraw_plan()
            raise
        if records:
            self._deputy.record(accounts, records.values())
        return _in_order(orders, {**judgement.replays(orders), **records})


def _in_order(orders: Sequence[TransferOrder], answers: Mapping[UUID, Answer]) -> list[Answer]:
    return [answers[order.id] for order in orders]
