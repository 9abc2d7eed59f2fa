"""Long work on the event loop, in slices: between two of them everybody else is served for twice as long."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeVar

from aiohttp import web

from aiopypay.errors import Overloaded

# Of one user's large requests, so many are worked on at once, and so many wait for that.
AT_ONCE = 2
WAITING_MAX = 200
# In that time some of them are answered.
RETRY_SECONDS = 5
SLICE_SECONDS = 0.001
# How much longer than a slice took, others have then.
WAY = 2
# An iteration of the event loop that was over sooner had nothing to do.
IDLE_SECONDS = 0.00005

Item = TypeVar("Item")
Made = TypeVar("Made")


class Slices:
    """Makes much of many items. There is one slice at a time, however many requests are worked on."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._requests: Counter[int] = Counter()
        self._places: dict[int, asyncio.Semaphore] = {}

    @contextlib.asynccontextmanager
    async def place(self, user_id: int) -> AsyncIterator[None]:
        """A place for one of the user's large requests, in their order. Raises Overloaded where too many wait."""
        if self._requests[user_id] >= AT_ONCE + WAITING_MAX:
            raise Overloaded("Too many of your requests with many transfers are waiting.", RETRY_SECONDS)
        self._requests[user_id] += 1
        try:
            async with self._places.setdefault(user_id, asyncio.Semaphore(AT_ONCE)):
                yield
        finally:
            self._requests[user_id] -= 1
            if not self._requests[user_id]:
                del self._requests[user_id], self._places[user_id]

    async def map(self, make: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
        """Returns what is made of each item, in order. Raises what `make` raises."""
        made: list[Made] = []
        left = iter(items)
        while not await self.do(lambda: _is_all_made(make, left, made)):
            pass
        return made

    async def do(self, work: Callable[[], Made]) -> Made:
        """Returns what is made by work that cannot be sliced. Raises what it raises."""
        async with self._turn:
            started = time.perf_counter()
            try:
                return work()
            finally:
                await _give_way(WAY * (time.perf_counter() - started))


SLICES: web.AppKey[Slices] = web.AppKey("slices", Slices)


def _is_all_made(make: Callable[[Item], Made], left: Iterable[Item], made: list[Made]) -> bool:
    until = time.perf_counter() + SLICE_SECONDS
    for item in left:
        made.append(make(item))
        if time.perf_counter() > until:
            return False
    return True


async def _give_way(seconds: float) -> None:
    """Lets others have the event loop for so long, where they have use for it."""
    given, before = 0.0, time.perf_counter()
    while given < seconds:
        await asyncio.sleep(0)
        now = time.perf_counter()
        if now - before < IDLE_SECONDS:
            return
        given, before = given + now - before, now
