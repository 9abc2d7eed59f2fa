"""Verified credentials are remembered for a while, so that argon2 runs once a user and not once a request."""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass

from aiopypay.passwords import Passwords
from aiopypay.throttling import Throttle

REMEMBERED_SECONDS = 300.0
REMEMBERED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class KnownHeader:
    """An Authorization header that is right as long as this user (in lower case) has this hash."""

    username: str
    encoded: str
    digest: bytes


class VerifiedCredentials:
    """Verifies passwords, remembering successes (never failures) for five minutes, the newest 10 000.

    What is remembered is a keyed digest over user, stored hash and password: a changed password misses at once,
    and nothing in memory can be turned back into a password.
    """

    def __init__(self, passwords: Passwords, throttle: Throttle | None = None) -> None:
        self._passwords = passwords
        self._throttle = throttle or Throttle()
        self._key = secrets.token_bytes(32)
        self._expiries: OrderedDict[bytes, float] = OrderedDict()
        self._headers: OrderedDict[bytes, KnownHeader] = OrderedDict()
        self._running: dict[tuple[bytes, str], asyncio.Task[bool]] = {}

    async def verify(self, username: str, encoded: str, password: str, address: str = "") -> bool:
        """Tells whether `password` matches the stored hash. Concurrent calls for the same share one verification.

        What is remembered is answered at once; failures from one address are throttled. Raises Overloaded,
        TooManyRequests.
        """
        digest = self._digest(username, encoded, password)
        if self._remembers(digest):
            return True
        running = (digest, address)
        task = self._running.get(running)
        if task is None:
            task = asyncio.create_task(self._verify(digest, username, encoded, password, address))
            self._running[running] = task
            task.add_done_callback(lambda _: self._running.pop(running, None))
        # Shielded: one caller that goes away does not take the answer from the others.
        return await asyncio.shield(task)

    def keep_header(self, header: str, username: str, encoded: str, password: str) -> None:
        """Remembers a header whose credentials were verified, so that it need not be read again."""
        digest = self._digest(username, encoded, password)
        if self._remembers(digest):
            self._headers[self._digest_of_header(header)] = KnownHeader(username.lower(), encoded, digest)
            while len(self._headers) > REMEMBERED_MAX:
                self._headers.popitem(last=False)

    def known_header(self, header: str) -> KnownHeader | None:
        """Returns what a header said, as long as its credentials are remembered."""
        known = self._headers.get(self._digest_of_header(header))
        return known if known is not None and self._remembers(known.digest) else None

    def _digest_of_header(self, header: str) -> bytes:
        return hashlib.blake2b(header.encode("utf-8", "surrogateescape"), key=self._key, digest_size=32).digest()

    def _digest(self, username: str, encoded: str, password: str) -> bytes:
        parts = [part.encode() for part in (username, encoded, password)]
        message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.digest(self._key, message, "sha256")

    def _remembers(self, digest: bytes) -> bool:
        return self._expiries.get(digest, 0.0) > time.monotonic()

    async def _verify(self, digest: bytes, username: str, encoded: str, password: str, address: str) -> bool:
        async with self._throttle.attempt(username, address) as attempt:
            matches = attempt.succeeded = await self._passwords.verify(encoded, password)
        if matches:
            self._expiries[digest] = time.monotonic() + REMEMBERED_SECONDS
            self._expiries.move_to_end(digest)
            while len(self._expiries) > REMEMBERED_MAX:
                self._expiries.popitem(last=False)
        return matches
