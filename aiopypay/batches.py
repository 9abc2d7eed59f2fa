"""Collects what arrives while a batch runs. The shape of group commit, without its database."""

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from aiopypay.errors import Overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Hands items to `run` in batches, one batch at a time, in order of arrival.

    An item that finds it idle is run at once, alone or with those of the same turn of the event loop; it
    never waits for company. Items that arrive while a batch runs form the next one. `run` returns one
    outcome an item, in order: a result, or an exception for that item's caller.

    `weigh` tells how much of a batch, and of the queue, an item takes. One that is heavier than a batch runs alone.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        batch_size: int,
        queue_size: int,
        weigh: Callable[[Item], int] = lambda _: 1,
    ) -> None:
        self._run = run
        self._weigh = weigh
        self._batch_size = batch_size
        self._queue_size = queue_size
        self._queue: deque[tuple[Item, asyncio.Future[Result], int]] = deque()
        # The weight of all that wait.
        self.queued = 0
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """Returns the item's result, or raises its exception. Raises Overloaded when the queue is full.

        A caller that is cancelled while its item still waits takes it out; once its batch has started, it runs.
        """
        weight = self._weigh(item)
        refusal = self.refusal(weight)
        if refusal is not None:
            raise refusal
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.append((item, future, weight))
        self.queued += weight
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await future

    def refusal(self, weight: int = 1) -> Overloaded | None:
        """Returns what an item of that weight would be told instead of being queued."""
        # What is heavier than the whole queue has its turn when nothing waits.
        if self.queued and self.queued + weight > self._queue_size:
            return Overloaded("Too many requests are waiting. Try again in a moment.")
        return None

    async def drain(self) -> None:
        """Waits until everything submitted so far has its outcome."""
        if self._worker is not None:
            await asyncio.shield(self._worker)

    async def _work(self) -> None:
        try:
            while self._queue:
                batch = self._next_batch()
                if batch:
                    await self._run_batch(batch)
        finally:
            self._worker = None

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """Takes as many from the queue as fit, but one at least, in their order; less those whose callers are gone."""
        batch = []
        room = self._batch_size
        while self._queue and (self._queue[0][2] <= room or room == self._batch_size):
            item, future, weight = self._queue.popleft()
            self.queued -= weight
            if not future.done():
                batch.append((item, future))
                room -= weight
        return batch

    async def _run_batch(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            outcomes = await self._run([item for item, _ in batch])
        except BaseException as error:
            settle_all(batch, error)
            if not isinstance(error, Exception):
                raise
        else:
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                settle(future, outcome)


def settle_all(batch: Sequence[tuple[Item, "asyncio.Future[Result]"]], error: BaseException) -> None:
    """Gives every caller an exception of its own: one instance raised in many tasks would grow their tracebacks."""
    for _, future in batch:
        settle(future, copy.copy(error))


def settle(future: "asyncio.Future[Result]", outcome: Result | BaseException) -> None:
    """Hands the outcome over, unless the caller is gone."""
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
