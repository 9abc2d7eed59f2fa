"""Work that waits, of many sources: whose turn it is, and who must leave where too much waits."""

import time
from collections import deque
from typing import Generic, TypeVar

from aiopypay.errors import Overloaded, TooManyRequests
from aiopypay.newest import Newest

Job = TypeVar("Job")

# For so long a failure puts its source behind those that had none.
FAILURE_SECONDS = 120.0
# Of more sources it is not remembered.
SOURCES_MAX = 10_000


class HashingQueue(Generic[Job]):
    """Sources without recent failures come first; among equals they take turns, and one that comes anew is next.

    The turns are those of start-time fair queueing (Goyal, Vin, Cheng 1996): each job has a number, one above the
    source's last, but not below the round that is served, less one; the lowest is next. So what was taken while nobody
    else waited is no debt, and whoever has let a round pass goes before those who take part in each. Of one source what
    came first is first. At most `length_max` jobs wait, at most `source_max` of a source.
    """

    def __init__(self, length_max: int, source_max: int) -> None:
        self._length_max = length_max
        self._source_max = source_max
        self._waiting: dict[str, deque[Job]] = {}
        self._length = 0
        self._turn = 0
        # The number of a source's next job, where it has had one lately.
        self._next: Newest[str, int] = Newest(SOURCES_MAX)
        self._failed: Newest[str, float] = Newest(SOURCES_MAX)

    def __len__(self) -> int:
        return self._length

    def add(self, source: str, job: Job) -> Job | None:
        """Lets a job wait; returns the one that had to leave for it, the newest of whoever crowds most.

        Raises TooManyRequests where enough of this source waits already, Overloaded where no other crowds more.
        """
        if len(self._waiting.get(source, ())) >= self._source_max:
            raise TooManyRequests("Too much of what you sent waits for its turn already. Try again in a moment.")
        left = self._make_room(source) if self._length >= self._length_max else None
        if source not in self._waiting:
            self._waiting[source] = deque()
            self._next.set(source, max(self._turn - 1, self._number(source)))
        self._waiting[source].append(job)
        self._length += 1
        return left

    def take(self) -> Job | None:
        """Returns the job whose turn it is, None where nothing waits."""
        if not self._waiting:
            return None
        source = min(self._waiting, key=self._place)
        self._turn = max(self._turn, self._number(source))
        self._next.set(source, self._number(source) + 1)
        job = self._waiting[source][0]
        self.remove(source, job)
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

    def fail(self, source: str) -> None:
        """Puts a source behind those that have not failed, for a while."""
        self._failed.set(source, time.monotonic())

    def clear(self) -> list[Job]:
        """Returns all that waits, and lets it wait no longer."""
        jobs = [job for waiting in self._waiting.values() for job in waiting]
        self._waiting.clear()
        self._length = 0
        return jobs

    def _make_room(self, newcomer: str) -> Job:
        crowder = max(self._waiting, key=self._burden)
        failed, waiting = self._burden(newcomer)
        if self._burden(crowder) <= (failed, waiting + 1):
            raise Overloaded("Too much waits for its turn. Try again in a moment.")
        job = self._waiting[crowder][-1]
        self.remove(crowder, job)
        return job

    def _place(self, source: str) -> tuple[bool, int]:
        return self._has_failed(source), self._number(source)

    def _burden(self, source: str) -> tuple[bool, int]:
        return self._has_failed(source), len(self._waiting.get(source, ()))

    def _number(self, source: str) -> int:
        number = self._next.get(source)
        return -1 if number is None else number

    def _has_failed(self, source: str) -> bool:
        failed_at = self._failed.get(source)
        return failed_at is not None and time.monotonic() < failed_at + FAILURE_SECONDS
