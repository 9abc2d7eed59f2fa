"""Work that waits, of many sources: whose turn it is, and who must leave where too much waits."""

import time
from collections import deque
from typing import Generic, TypeVar

from aiopypay.errors import Overloaded, TooManyRequests
from aiopypay.newest import Newest

Job = TypeVar("Job")

# What a source has taken counts half after this time. Short: whoever came in a crowd once is soon like others.
HALF_LIFE_SECONDS = 6.0
# Beyond it what the oldest have taken is forgotten.
SOURCES_MAX = 10_000


class FairQueue(Generic[Job]):
    """The turn is the source's that has taken least lately: whoever crowds waits behind everybody else.

    Of one source what came first is first. At most `length_max` jobs wait, at most `source_max` of one source.
    """

    def __init__(self, length_max: int, source_max: int) -> None:
        self._length_max = length_max
        self._source_max = source_max
        self._waiting: dict[str, deque[Job]] = {}
        self._length = 0
        self._taken: Newest[str, tuple[float, float]] = Newest(SOURCES_MAX)

    def __len__(self) -> int:
        return self._length

    def add(self, source: str, job: Job) -> Job | None:
        """Lets a job wait; returns the one that had to leave for it, the newest of whoever crowds most.

        Raises TooManyRequests where enough of this source waits already, Overloaded where no other crowds more.
        """
        if len(self._waiting.get(source, ())) >= self._source_max:
            raise TooManyRequests("Too much of what you sent waits for its turn already. Try again in a moment.")
        left = self._make_room(source) if self._length >= self._length_max else None
        self._waiting.setdefault(source, deque()).append(job)
        self._length += 1
        return left

    def take(self) -> Job | None:
        """Returns the job whose turn it is, None where nothing waits."""
        if not self._waiting:
            return None
        source = min(self._waiting, key=self._taken_lately)
        job = self._waiting[source][0]
        self.remove(source, job)
        self.charge(source, 1.0)
        return job

    def remove(self, source: str, job: Job) -> None:
        """Lets a job wait no longer, if it does."""
        jobs = self._waiting.get(source)
        if jobs is None or job not in jobs:
            return
        jobs.remove(job)
        self._length -= 1
        if not jobs:
            del self._waiting[source]

    def charge(self, source: str, cost: float) -> None:
        """Counts as if the source had taken so many turns more."""
        self._taken.set(source, (self._taken_lately(source) + cost, time.monotonic()))

    def clear(self) -> list[Job]:
        """Returns all that waits, and lets it wait no longer."""
        jobs = [job for waiting in self._waiting.values() for job in waiting]
        self._waiting.clear()
        self._length = 0
        return jobs

    def _make_room(self, newcomer: str) -> Job:
        crowder = max(self._waiting, key=self._burden)
        if self._burden(crowder) <= self._burden(newcomer) + 1:
            raise Overloaded("Too much waits for its turn. Try again in a moment.")
        job = self._waiting[crowder][-1]
        self.remove(crowder, job)
        return job

    def _burden(self, source: str) -> float:
        return self._taken_lately(source) + len(self._waiting.get(source, ()))

    def _taken_lately(self, source: str) -> float:
        taken, at = self._taken.get(source) or (0.0, 0.0)
        return taken * 0.5 ** ((time.monotonic() - at) / HALF_LIFE_SECONDS) if taken else 0.0
