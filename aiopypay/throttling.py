"""Throttling: guessing passwords becomes slow, and registering is bounded. Counted in memory.

Only failures are counted, and only passwords that are really verified: what is remembered never comes here. Past a
limit nothing is verified, so that right and wrong have the same answer. There are two limits for logging in: of a user
from an address, each further failure closes the door for twice as long; of a user from all addresses together, so many
failures a minute. The second does not hold for addresses from which the user has logged in within 30 days: whoever
attacks from elsewhere keeps nobody out there. An address as a whole is never closed; it waits for its turn
(`hashing_queue`).

What is counted is of bounded number, the newest. Whoever would push out a count needs as many failures, each verified.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from aiopypay.errors import Overloaded, TooManyRequests
from aiopypay.known_addresses import KnownAddresses
from aiopypay.newest import Newest

# So many are verified in a minute by no machine; one that could would forget a user's minute before it is over.
COUNTERS_MAX = 60_000
MINUTE_SECONDS, DAY_SECONDS = 60.0, 86_400.0
# In a day an address registers no more users than in so many minutes.
REGISTRATION_MINUTES_A_DAY = 20
# Of one user, over all addresses that are not known to be theirs.
FAILURES_PER_MINUTE = 10

# Of one user from one address: so many failures are free, within so long.
FREE = 10
FAILURES_REMEMBERED_SECONDS = 86_400.0
# How long the door is closed at most; from a known address shorter, since the user shares it with the guesser.
CLOSED_SECONDS_MAX, CLOSED_TO_KNOWN_SECONDS_MAX = 900, 60

REFUSAL_SECONDS = 1.0


@dataclass(slots=True)
class Attempt:
    """A password that is being verified. Left as it is (the verification did not run) it counts as nothing."""

    is_known: bool
    succeeded: bool | None = field(default=None)


@dataclass(frozen=True, slots=True)
class _Failures:
    """Of one user from one address. Times are of the monotonic clock."""

    count: int
    latest: float
    closed_until: float


class PerMinute:
    """Counts in windows of a minute, each begun by the first that is counted in it."""

    window_seconds = MINUTE_SECONDS

    def __init__(self) -> None:
        self._windows: Newest[str, tuple[int, float]] = Newest(COUNTERS_MAX)

    def count(self, key: str) -> int:
        """Returns how many were counted in the window that is open, 0 without one."""
        return self._window(key)[0]

    def add(self, key: str) -> None:
        """Counts one."""
        count, end = self._window(key)
        self._windows.set(key, (count + 1, end))

    def wait_seconds(self, key: str) -> int:
        """Returns after how many seconds nothing is counted any more."""
        return math.ceil(self._window(key)[1] - time.monotonic())

    def _window(self, key: str) -> tuple[int, float]:
        now = time.monotonic()
        count, end = self._windows.get(key) or (0, 0.0)
        return (count, end) if now < end else (0, now + self.window_seconds)


class PerDay(PerMinute):
    """The same, by the day."""

    window_seconds = DAY_SECONDS


class Throttle:
    """The counters of one process."""

    def __init__(self, known: KnownAddresses | None = None) -> None:
        self._known = known or KnownAddresses()
        self._doors: Newest[str, _Failures] = Newest(COUNTERS_MAX)
        self._failures = PerMinute()
        self._registrations = PerMinute()
        self._registrations_of_day = PerDay()
        # Attempts under way count like failures, so that many at once are not many for free.
        self._running: Counter[str] = Counter()

    @contextmanager
    def attempt(self, username: str, address: str) -> Iterator[Attempt]:
        """Within it a password is verified; the outcome is told to the attempt. Raises TooManyRequests."""
        user = username.lower()[:64]
        door = f"{address} {user}"
        attempt = Attempt(self._known.knows(user, address))
        counted = [door] if attempt.is_known else [door, _everywhere(user)]
        self._check(door, None if attempt.is_known else user)
        self._running.update(counted)
        try:
            yield attempt
        finally:
            self._ended(counted)
        if attempt.succeeded is False:
            self._failed(door, attempt.is_known)
            if not attempt.is_known:
                self._failures.add(user)
        elif attempt.succeeded:
            # Of the user's failures elsewhere nothing is forgiven: those were not theirs.
            self._doors.remove(door)
            self._known.note(user, address)

    def registration(self, address: str, per_minute: int) -> None:
        """Counts a registration, by the minute and by the day. Raises TooManyRequests."""
        limits = {self._registrations_of_day: REGISTRATION_MINUTES_A_DAY * per_minute, self._registrations: per_minute}
        for counted, most in limits.items():
            if counted.count(address) >= most:
                raise _refusal("Too many registrations from your address", counted.wait_seconds(address))
        for counted in limits:
            counted.add(address)

    def _check(self, door: str, user: str | None) -> None:
        failures, now = self._failures_at(door), time.monotonic()
        seconds = math.ceil(failures.closed_until - now) if failures else 0
        tried_at_once = bool(self._running[door]) and (failures.count if failures else 0) + self._running[door] >= FREE
        if user is not None:
            count = self._failures.count(user)
            if count >= FAILURES_PER_MINUTE:
                seconds = max(seconds, self._failures.wait_seconds(user))
            tried_at_once |= count + self._running[_everywhere(user)] >= FAILURES_PER_MINUTE
        if seconds > 0:
            raise _refusal("Too many attempts to log in failed", seconds)
        if tried_at_once:
            raise TooManyRequests("Too many attempts to log in at once. Try again in a moment.", 1)

    def _failures_at(self, door: str) -> _Failures | None:
        failures = self._doors.get(door)
        if failures and failures.latest + FAILURES_REMEMBERED_SECONDS < time.monotonic():
            return None
        return failures

    def _failed(self, door: str, is_known: bool) -> None:
        """1 s after the last free failure, then twice as long each time."""
        before, now = self._failures_at(door), time.monotonic()
        count = (before.count if before else 0) + 1
        longest = CLOSED_TO_KNOWN_SECONDS_MAX if is_known else CLOSED_SECONDS_MAX
        closed = min(2 ** min(count - FREE, longest.bit_length()), longest) if count >= FREE else 0
        self._doors.set(door, _Failures(count, now, now + closed))

    def _ended(self, counted: list[str]) -> None:
        for key in counted:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]


def _everywhere(user: str) -> str:
    """What attempts of a user from all addresses are counted under. No door begins so, whatever the name is."""
    return f" {user}"


@asynccontextmanager
async def refused_slowly() -> AsyncIterator[None]:
    """Within, a refusal takes a second: a crowd that waits for its answers is slowed, and costs others little."""
    try:
        yield
    except (TooManyRequests, Overloaded):
        await asyncio.sleep(REFUSAL_SECONDS)
        raise


def _refusal(what: str, seconds: int) -> TooManyRequests:
    return TooManyRequests(f"{what}. Try again in {max(1, seconds)} s.", max(1, seconds))
