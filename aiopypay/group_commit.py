"""The writer: orders that arrive while a batch runs share the next one. One batch at a time, in every mode.

If the process dies, or the connection is lost, before COMMIT is sent, nothing of a batch is booked: its orders are
then accepted by the deputy under the same ids. After it, all of the batch or nothing is booked, and nobody knows
which: then it enters the journal whole, as it was planned. Its plan has been on disk since before COMMIT, so that
a process killed in between finds it at its next start. A caller that goes away changes nothing: the batch runs in
a task of its own.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from uuid import UUID

from aiopypay.batches import Batcher
from aiopypay.database import Database
from aiopypay.errors import CommitInDoubt, DatabaseBusy, DatabaseUnavailable, DuplicateOrder, InternalError
from aiopypay.ledger import TransferOrder
from aiopypay.stand_in.acceptance import Answer
from aiopypay.stand_in.deputy import Deputy
from aiopypay.stand_in.records import Entry
from aiopypay.store.orders import Judgement, OrderRecord, accounts_named, book_plans, judge_orders, lockable_accounts

BATCH_SIZE = 200
QUEUE_SIZE = 5_000
ATTEMPTS = 3

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
            answers = await self._post(list(first.values()))
        posted = dict(zip(first, answers, strict=True))
        later = [order for order in orders if order.fingerprint != first[order.id].fingerprint]
        others = iter(await self._run(later) if later else [])
        return [
            posted[order.id] if order.fingerprint == first[order.id].fingerprint else next(others) for order in orders
        ]

    async def _post(self, orders: Sequence[TransferOrder]) -> list[Answer]:
        """One transaction for all. What PostgreSQL rejects whole is split until the culprit stands alone."""
        if not self._deputy.switch.is_up:
            return await self._deputy.accept(orders)
        try:
            return await self._post_together(orders)
        except DatabaseUnavailable:
            return await self._deputy.accept(orders)
        except InternalError as failure:
            if len(orders) == 1:
                logger.error("Order %s was not booked: %s", orders[0].id, failure)  # noqa: TRY400 - told before
                return [failure]
        half = len(orders) // 2
        return await self._post(orders[:half]) + await self._post(orders[half:])

    async def _post_together(self, orders: Sequence[TransferOrder]) -> list[Answer]:
        """Tries again, under the same ids, what was in the way of others; who is locked out answers for himself."""
        answers: dict[UUID, Answer] = {}
        waiting = list(orders)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answers |= zip((order.id for order in waiting), await self._attempt(waiting), strict=True)
                break
            except DuplicateOrder:
                # Booked by another process in the meantime: looked up again, it is found.
                if attempt == ATTEMPTS:
                    raise
            except DatabaseBusy as busy:
                free = set() if attempt == ATTEMPTS else await self._free_accounts(waiting)
                locked_out = [order for order in waiting if not free.issuperset(accounts_named(order))]
                answers |= {order.id: busy for order in locked_out}
                waiting = [order for order in waiting if order.id not in answers]
                if not waiting:
                    break
        return _in_order(orders, answers)

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
                judgement = await judge_orders(connection, orders)
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
