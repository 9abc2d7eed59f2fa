"""argon2id, off the event loop, in a small pool with a bounded queue."""

import asyncio
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from aiopypay.errors import Overloaded

# OWASP's parameters for argon2id: 19 MiB, two passes, one lane.
MEMORY_KIB, PASSES, LANES = 19_456, 2, 1
QUEUE_MAX = 256

Result = TypeVar("Result")


class Passwords:
    """Hashes and verifies. Raises Overloaded when more than QUEUE_MAX of them wait."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES)
        # One core stays with the event loop.
        self._threads = ThreadPoolExecutor(max(1, (os.cpu_count() or 2) // 2), thread_name_prefix="argon2")
        self._waiting = 0
        # What is verified for users that do not exist, so that they take as long as those that do.
        self.nobodys_hash = self._hasher.hash(secrets.token_urlsafe())

    async def hash(self, password: str) -> str:
        """Returns argon2's encoded hash, with a salt of its own."""
        return await self._in_thread(lambda: self._hasher.hash(password))

    async def verify(self, encoded: str, password: str) -> bool:
        """Tells whether this is the password. A hash that is none matches nothing."""
        return await self._in_thread(lambda: self._matches(encoded, password))

    def is_outdated(self, encoded: str) -> bool:
        """Tells whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(encoded)

    def close(self) -> None:
        """Ends the threads once their work is done."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _matches(self, encoded: str, password: str) -> bool:
        try:
            return self._hasher.verify(encoded, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        if self._waiting >= QUEUE_MAX:
            raise Overloaded("Too many passwords are being verified. Try again in a moment.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1
