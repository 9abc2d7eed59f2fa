"""argon2id, off the event loop, in a small pool. What it is needed for has shares of it, and sources their turns."""

import asyncio
import base64
import os
import secrets
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from functools import partial
from typing import Any, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import ARGON2_VERSION

from aiopypay.errors import Overloaded
from aiopypay.hashing_queue import HashingQueue
from aiopypay.password_rules import forms_of, normalised

# OWASP's parameters for argon2id: 19 MiB, two passes, one lane.
MEMORY_KIB, PASSES, LANES = 19_456, 2, 1
SALT_BYTES, DIGEST_BYTES = 16, 32
# Of one kind of work, in all and of one source, and for how long.
QUEUE_MAX, QUEUE_OF_SOURCE_MAX = 256, 64
WAIT_SECONDS = 20.0

Result = TypeVar("Result")


class Work(Enum):
    """What argon2 is needed for. While several kinds wait they take turns, so that each has its share."""

    # From an address that the user has logged in from before.
    KNOWN_LOGIN = auto()
    LOGIN = auto()
    REGISTRATION = auto()
    CHANGE = auto()


class Match(IntEnum):
    """Whether a password is the one. `AS_TYPED`: its hash was made before passwords were normalised."""

    NO = 0
    YES = 1
    AS_TYPED = 2


@dataclass(eq=False, slots=True)
class _Job:
    work: Callable[[], Any]
    done: asyncio.Future[Any]


class Passwords:
    """Hashes and verifies. What waits is bounded, by kind of work and by source (an address, or a user).

    Within a kind, sources take turns, those without recent wrong passwords first. Raises TooManyRequests where a source
    has too much waiting, Overloaded where all have, or where a turn has not come in WAIT_SECONDS.
    """

    def __init__(self) -> None:
        self._hasher = PasswordHasher(
            time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES, hash_len=DIGEST_BYTES, salt_len=SALT_BYTES
        )
        # The other half of the cores stays with the event loop and the database: argon2 runs beside the interpreter.
        self._idle = max(1, len(os.sched_getaffinity(0)) // 2)
        self._threads = ThreadPoolExecutor(self._idle, thread_name_prefix="argon2")
        self._queues: dict[Work, HashingQueue[_Job]] = {
            work: HashingQueue(QUEUE_MAX, QUEUE_OF_SOURCE_MAX) for work in Work
        }
        self._turns = deque(Work)
        # What is verified for users that do not exist, so that they take as long as those that do.
        self.nobodys_hash = _hash_of_nothing()

    async def hash(self, password: str, work: Work = Work.CHANGE, source: str = "") -> str:
        """Returns argon2's encoded hash of the normalised password, with a salt of its own."""
        return await self._in_turn(work, source, lambda: self._hasher.hash(normalised(password)))

    async def verify(self, encoded: str, password: str, work: Work = Work.LOGIN, source: str = "") -> Match:
        """Tells whether this is the password, however it was typed. A hash that is none matches nothing.

        What is not normalised takes twice as long where it is wrong, for users that exist and those that do not.
        """
        match = await self._in_turn(work, source, lambda: self._match(encoded, password))
        if not match:
            self._queues[work].fail(source)
        return match

    def is_outdated(self, encoded: str) -> bool:
        """Tells whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(encoded)

    def close(self) -> None:
        """Ends the threads once their work is done. What waits is refused."""
        for queue in self._queues.values():
            for job in queue.clear():
                _refuse(job)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _match(self, encoded: str, password: str) -> Match:
        for form, match in zip(forms_of(password), (Match.YES, Match.AS_TYPED), strict=False):
            if self._is(encoded, form):
                return match
        return Match.NO

    def _is(self, encoded: str, password: str) -> bool:
        try:
            return self._hasher.verify(encoded, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _in_turn(self, work: Work, source: str, function: Callable[[], Result]) -> Result:
        queue, job = self._queues[work], _Job(function, asyncio.get_running_loop().create_future())
        displaced = queue.add(source, job)
        if displaced is not None:
            _refuse(displaced)
        self._begin()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                result: Result = await job.done
        except TimeoutError:
            raise _overloaded() from None
        finally:
            queue.remove(source, job)
        return result

    def _begin(self) -> None:
        while self._idle and (job := self._next()) is not None:
            self._idle -= 1
            running = asyncio.get_running_loop().run_in_executor(self._threads, job.work)
            running.add_done_callback(partial(self._ended, job))

    def _ended(self, job: _Job, running: asyncio.Future[Any]) -> None:
        self._idle += 1
        if running.cancelled():
            _refuse(job)
        elif not job.done.done():
            error = running.exception()
            if error is not None:
                job.done.set_exception(error)
            else:
                job.done.set_result(running.result())
        self._begin()

    def _next(self) -> _Job | None:
        """The kinds take turns; one of which nothing waits leaves its turn to the others."""
        for _ in range(len(self._turns)):
            work = self._turns[0]
            self._turns.rotate(-1)
            job = self._queues[work].take()
            if job is not None:
                return job
        return None


def _refuse(job: _Job) -> None:
    if not job.done.done():
        job.done.set_exception(_overloaded())


def _overloaded() -> Overloaded:
    return Overloaded("Too many passwords are being verified. Try again in a moment.")


def _hash_of_nothing() -> str:
    """Returns a hash with today's parameters that was made of no password: its digest is drawn, not computed.

    Making one would take argon2's memory at start, and the C library keeps what was freed.
    """
    salt, digest = (_base64(secrets.token_bytes(length)) for length in (SALT_BYTES, DIGEST_BYTES))
    return f"$argon2id$v={ARGON2_VERSION}$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${digest}"


def _base64(data: bytes) -> str:
    """Encodes as argon2 does: without padding."""
    return base64.b64encode(data).decode().rstrip("=")
