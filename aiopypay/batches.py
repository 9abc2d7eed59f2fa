"""Collects what arrives while a batch runs. The shape of group commit, without its database."""

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from aiopypay.errors import Overloaded
from aiopypay.fair_batches import QUANTUM, Cut, FairBatches, IdsOf, Part, Waiting

# What a full queue tells its next caller at most to wait.
WAIT_SECONDS_MAX = 60
# The event loop's clock knows nothing shorter: who rests for less would ask again and again.
TICK_SECONDS = 0.001

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Hands items to `run` in batches, one batch at a time: each user's in order of arrival, no user's before all else.

    An item that finds it idle is run at once, alone or with those of the same turn of the event loop; it
    never waits for company. Items that arrive while a batch runs form the next one. `run` returns one
    outcome an item, in order: a result, or an exception for that item's caller.

    `weigh` tells how much of a batch, and of the queue, an item takes. One that is heavier than a batch runs alone.
    `user_of` tells whose an item is; users are served fairly, to which `cut` and `ids_of` belong (`fair_batches.py`).
    `join` makes one result of those of an item's parts, in their order. An exception for one part is its caller's.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        batch_size: int,
        queue_size: int,
        weigh: Callable[[Item], int] = lambda _: 1,
        user_of: Callable[[Item], Hashable] = lambda _: None,
        cut: Cut[Item] = lambda _, __: None,
        ids_of: IdsOf[Item] = lambda _: (),
        join: Callable[[Sequence[Result]], Result] = lambda results: results[0],
    ) -> None:
        self._run = run
        self._weigh = weigh
        self._user_of = user_of
        self._join = join
        self._queue_size = queue_size
        self._queue: FairBatches[Item, Result] = FairBatches(batch_size, cut, ids_of)
        self._worker: asyncio.Task[None] | None = None
        # Set when something was submitted.
        self._news = asyncio.Event()
        # What a batch took of late, by weight.
        self._seconds_each = 0.0

    async def submit(self, item: Item) -> Result:
        """Returns the item's result, or raises its exception. Raises Overloaded when the queue is full.

        A caller that is cancelled while its item still waits takes it out; once its batch has started, it runs.
        """
        weight, user = self._weigh(item), self._user_of(item)
        refusal = self.refusal(weight, self._queue.weight_of(user))
        if refusal is not None:
            raise refusal
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.put(user, Waiting(item, weight, future), time.monotonic())
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        self._news.set()
        return await future

    def refusal(self, weight: int = 1, waiting: int = 0) -> Overloaded | None:
        """Returns what an item of that weight would be told instead of being queued, None where there is room.

        There is for who has little `waiting`, whoever has filled the queue. What is heavier than the whole queue has
        its turn when nothing waits.
        """
        queued = self._queue.weight
        if not queued or queued + weight <= self._queue_size or waiting + weight <= min(QUANTUM, self._queue_size // 2):
            return None
        seconds = max(1, min(round(queued * self._seconds_each), WAIT_SECONDS_MAX))
        return Overloaded("Too many requests are waiting. Try again later.", seconds)

    async def drain(self) -> None:
        """Waits until everything submitted so far has its outcome."""
        if self._worker is not None:
            await asyncio.shield(self._worker)

    async def _work(self) -> None:
        try:
            while self._queue:
                batch = self._queue.take(time.monotonic())
                if batch:
                    started = time.monotonic()
                    await self._run_batch(batch)
                    self._note(batch, started, time.monotonic())
                elif self._queue:
                    await self._rest(self._queue.rests_until - time.monotonic())
        finally:
            self._worker = None

    def _note(self, batch: list[Part[Item, Result]], started: float, ended: float) -> None:
        self._queue.took(ended - started, ended)
        seconds_each = (ended - started) / sum([part.weight for part in batch])
        self._seconds_each += (seconds_each - self._seconds_each) / 8

    async def _rest(self, seconds: float) -> None:
        """Returns after that time, or when something new was submitted."""
        self._news.clear()
        timer = asyncio.get_running_loop().call_later(max(seconds, TICK_SECONDS), self._news.set)
        await self._news.wait()
        timer.cancel()

    async def _run_batch(self, batch: list[Part[Item, Result]]) -> None:
        try:
            outcomes = await self._run([part.item for part in batch])
        except BaseException as error:
            for part in batch:
                # An exception of its own for each: one raised in many tasks would grow their tracebacks.
                settle(part.of.future, copy.copy(error))
            if not isinstance(error, Exception):
                raise
        else:
            for part, outcome in zip(batch, outcomes, strict=True):
                self._tell(part, outcome)

    def _tell(self, part: Part[Item, Result], outcome: Result | Exception) -> None:
        before = part.of.outcomes
        if isinstance(outcome, Exception) or (part.is_last and not before):
            settle(part.of.future, outcome)
            return
        before.append(outcome)
        if part.is_last:
            settle(part.of.future, self._join(before))


def settle(future: "asyncio.Future[Result]", outcome: Result | BaseException) -> None:
    """Hands the outcome over, unless the caller is gone."""
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
