"""Throttling: guessing passwords becomes slow, and registering is bounded. Counted by the library `limits`, in memory.

Only failures are counted, and only passwords that are really verified: what is remembered never comes here. After some
failures each further one closes the door for twice as long, to a user from that address and, later, to the address as a
whole; a user is never kept out from elsewhere.
"""

import math
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from aiopypay.errors import TooManyRequests

# Beyond this many counters all are forgotten: whoever has so many addresses is not slowed by counting them.
COUNTERS_MAX = 50_000


@dataclass(frozen=True, slots=True)
class Patience:
    """How many failures are free within a time, and how long the door is closed at most.

    `counts_running`: attempts under way count like failures, so that many at once are not many for free.
    """

    name: str
    free: int
    remembered_seconds: int
    longest_seconds: int
    counts_running: bool


# Many users may share an address, and log in at once.
WITH_USER = Patience("user", free=10, remembered_seconds=86_400, longest_seconds=900, counts_running=True)
WITH_ADDRESS = Patience("address", free=100, remembered_seconds=3_600, longest_seconds=60, counts_running=False)


@dataclass(slots=True)
class Attempt:
    """A password that is being verified. Left as it is (the verification did not run) it counts as nothing."""

    succeeded: bool | None = field(default=None)


class Throttle:
    """The counters of one process."""

    def __init__(self) -> None:
        self._storage = MemoryStorage()
        self._limiter = FixedWindowRateLimiter(self._storage)
        self._running: Counter[str] = Counter()

    @asynccontextmanager
    async def attempt(self, username: str, address: str) -> AsyncIterator[Attempt]:
        """Within it a password is verified; the outcome is told to the attempt. Raises TooManyRequests."""
        doors = [(WITH_USER, f"{address} {username.lower()[:64]}"), (WITH_ADDRESS, address)]
        for patience, key in doors:
            await self._check(patience, key)
        for patience, key in doors:
            self._running[_place(patience, key)] += 1
        attempt = Attempt()
        try:
            yield attempt
        finally:
            for patience, key in doors:
                self._ended(_place(patience, key))
        if attempt.succeeded is False:
            for patience, key in doors:
                await self._failed(patience, key)
        elif attempt.succeeded:
            # Of the address nothing is forgiven: a guesser may have an account of their own.
            await self._storage.clear(_place(*doors[0]))

    async def registration(self, address: str, per_minute: int) -> None:
        """Counts a registration. Raises TooManyRequests."""
        await self._bound()
        item = RateLimitItemPerMinute(per_minute)
        if not await self._limiter.hit(item, "registration", address):
            raise await self._refusal("Too many registrations from your address", item, "registration", address)

    async def _check(self, patience: Patience, key: str) -> None:
        place = _place(patience, key)
        failures, running = await self._storage.get(place), self._running[place]
        tried = failures + (running if patience.counts_running else 0)
        if running and tried >= patience.free:
            raise TooManyRequests("Too many attempts to log in at once. Try again in a moment.", 1)
        closed = _closed(patience, failures)
        if closed is not None and not await self._limiter.test(closed, place):
            raise await self._refusal("Too many attempts to log in failed", closed, place)

    async def _failed(self, patience: Patience, key: str) -> None:
        await self._bound()
        place = _place(patience, key)
        failures = await self._storage.incr(place, patience.remembered_seconds)
        closed = _closed(patience, failures)
        if closed is not None:
            await self._limiter.hit(closed, place)

    async def _refusal(self, what: str, item: RateLimitItem, *key: str) -> TooManyRequests:
        reset_time, _ = await self._limiter.get_window_stats(item, *key)
        # By the wall clock, which may be set back: never longer than the window.
        seconds = max(1, min(math.ceil(reset_time - time.time()), item.get_expiry()))
        return TooManyRequests(f"{what}. Try again in {seconds} s.", seconds)

    async def _bound(self) -> None:
        if len(self._storage.storage) > COUNTERS_MAX:
            await self._storage.reset()

    def _ended(self, place: str) -> None:
        self._running[place] -= 1
        if not self._running[place]:
            del self._running[place]


def _place(patience: Patience, key: str) -> str:
    return f"{patience.name} {key}"


def _closed(patience: Patience, failures: int) -> RateLimitItem | None:
    """How long the door is closed after so many failures: 1 s after the last free one, then twice as long each time."""
    if failures < patience.free:
        return None
    doublings = min(failures - patience.free, patience.longest_seconds.bit_length())
    return RateLimitItemPerSecond(1, min(2**doublings, patience.longest_seconds))
