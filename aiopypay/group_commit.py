"""Group commit: the orders that arrive while a transaction runs share the next one. One batch at a time."""

import logging
from collections.abc import Sequence
from uuid import UUID

from aiopypay.batches import Batcher
from aiopypay.database import Database
from aiopypay.errors import DatabaseBusy, DuplicateOrder, Problem, StatementRejected
from aiopypay.ledger import TransferOrder
from aiopypay.store.orders import OrderRecord, Outcome, post_orders

BATCH_SIZE = 200
QUEUE_SIZE = 5_000
ATTEMPTS = 3

logger = logging.getLogger(__name__)


class GroupCommit:
    """Posts orders, each exactly once under its id, however many times it is sent.

    If the process dies, or the connection is lost, before COMMIT is sent, nothing of the batch is booked; after it,
    all of it or nothing is (CommitInDoubt), and a retry under the same ids finds out. A caller that goes away
    changes nothing: the batch runs in a task of its own.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._batches: Batcher[TransferOrder, OrderRecord] = Batcher(
            self._run, batch_size=BATCH_SIZE, queue_size=QUEUE_SIZE
        )

    async def post(self, order: TransferOrder) -> OrderRecord:
        """Returns the order as it was booked, now or before.

        Raises what the ledger rule raises, IdempotencyKeyReused, Overloaded, DatabaseBusy, DatabaseUnavailable
        and, where the answer to COMMIT is missing, CommitInDoubt.
        """
        return await self._batches.submit(order)

    async def drain(self) -> None:
        """Waits until every order submitted so far has its outcome."""
        await self._batches.drain()

    async def _run(self, orders: list[TransferOrder]) -> list[Outcome]:
        """Two orders with one id and content are one order; another content under the same id is judged after it."""
        first: dict[UUID, TransferOrder] = {}
        for order in orders:
            first.setdefault(order.id, order)
        posted = dict(zip(first, await self._post(list(first.values())), strict=True))
        later = [order for order in orders if order.fingerprint != first[order.id].fingerprint]
        others = iter(await self._run(later) if later else [])
        return [
            posted[order.id] if order.fingerprint == first[order.id].fingerprint else next(others) for order in orders
        ]

    async def _post(self, orders: Sequence[TransferOrder]) -> list[Outcome]:
        """One transaction for all. What the database does not take whole is split until the culprit stands alone."""
        failure = await self._failure_or_outcomes(orders)
        if isinstance(failure, list):
            return failure
        if len(orders) == 1:
            logger.error("Order %s was not booked: %s", orders[0].id, failure)
            return [failure]
        half = len(orders) // 2
        return await self._post(orders[:half]) + await self._post(orders[half:])

    async def _failure_or_outcomes(self, orders: Sequence[TransferOrder]) -> list[Outcome] | Problem:
        failure: Problem = DatabaseBusy("The database is busy. Nothing was booked; try again.")
        for _ in range(ATTEMPTS):
            try:
                async with self._database.transaction() as connection:
                    return await post_orders(connection, orders)
            except (DatabaseBusy, DuplicateOrder) as retryable:
                # Under the same ids: an order that was booked meanwhile is found, not booked again.
                failure = retryable
            except StatementRejected as rejected:
                return rejected
        return failure
