"""argon2id, off the event loop, in a small pool with a bounded queue."""

import asyncio
import base64
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import ARGON2_VERSION

from aiopypay.errors import Overloaded

# OWASP's parameters for argon2id: 19 MiB, two passes, one lane.
MEMORY_KIB, PASSES, LANES = 19_456, 2, 1
SALT_BYTES, DIGEST_BYTES = 16, 32
QUEUE_MAX = 256

Result = TypeVar("Result")


class Passwords:
    """Hashes and verifies. Raises Overloaded when more than QUEUE_MAX of them wait."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(
            time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES, hash_len=DIGEST_BYTES, salt_len=SALT_BYTES
        )
        # One core stays with the event loop.
        self._threads = ThreadPoolExecutor(max(1, (os.cpu_count() or 2) // 2), thread_name_prefix="argon2")
        self._waiting = 0
        # What is verified for users that do not exist, so that they take as long as those that do.
        self.nobodys_hash = _hash_of_nothing()

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


def _hash_of_nothing() -> str:
    """Returns a hash with today's parameters that was made of no password: its digest is drawn, not computed.

    Making one would take argon2's memory at start, and the C library keeps what was freed.
    """
    salt, digest = (_base64(secrets.token_bytes(length)) for length in (SALT_BYTES, DIGEST_BYTES))
    return f"$argon2id$v={ARGON2_VERSION}$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${digest}"


def _base64(data: bytes) -> str:
    """Encodes as argon2 does: without padding."""
    return base64.b64encode(data).decode().rstrip("=")
