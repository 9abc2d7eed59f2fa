"""Verified credentials are remembered for a while, so that argon2 runs once a user and not once a request."""

import asyncio
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

from aiopypay.newest import Newest
from aiopypay.password_rules import normalised
from aiopypay.passwords import Match, Passwords, Work
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

    What is remembered is a keyed digest over user, stored hash, password and address: a changed password misses at
    once, nothing in memory can be turned back into a password, and whoever guesses from elsewhere past the limit does
    not learn which guess was right.
    """

    def __init__(self, passwords: Passwords, throttle: Throttle | None = None) -> None:
        self._passwords = passwords
        self._throttle = throttle or Throttle()
        self._key = secrets.token_bytes(32)
        self._expiries: Newest[bytes, float] = Newest(REMEMBERED_MAX)
        self._headers: Newest[bytes, KnownHeader] = Newest(REMEMBERED_MAX)
        self._running: dict[bytes, asyncio.Task[Match]] = {}

    async def verify(self, username: str, encoded: str, password: str, address: str = "") -> Match:
        """Tells whether `password` matches the stored hash. Concurrent calls for the same share one verification.

        What is remembered is answered at once; failures are throttled. Raises Overloaded, TooManyRequests.
        """
        digest = self._digest(username, encoded, password, address)
        if self._remembers(digest):
            return Match.YES
        task = self._running.get(digest)
        if task is None:
            task = asyncio.create_task(self._verify(digest, username, encoded, password, address))
            self._running[digest] = task
            task.add_done_callback(lambda _: self._running.pop(digest, None))
        # Shielded: one caller that goes away does not take the answer from the others.
        return await asyncio.shield(task)

    def keep_header(self, header: str, username: str, encoded: str, password: str, address: str = "") -> None:
        """Remembers a header whose credentials were verified, so that it need not be read again."""
        digest = self._digest(username, encoded, password, address)
        if self._remembers(digest):
            self._headers.set(self._digest_of_header(header, address), KnownHeader(username.lower(), encoded, digest))

    def known_header(self, header: str, address: str = "") -> KnownHeader | None:
        """Returns what a header said, as long as its credentials are remembered, for this address."""
        known = self._headers.get(self._digest_of_header(header, address))
        return known if known is not None and self._remembers(known.digest) else None

    def _digest_of_header(self, header: str, address: str) -> bytes:
        # Neither can hold the character between them.
        message = f"{address}\n{header}".encode("utf-8", "surrogateescape")
        return hashlib.blake2b(message, key=self._key, digest_size=32).digest()

    def _digest(self, username: str, encoded: str, password: str, address: str) -> bytes:
        parts = [part.encode() for part in (username, encoded, normalised(password), address)]
        message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.digest(self._key, message, "sha256")

    def _remembers(self, digest: bytes) -> bool:
        return (self._expiries.get(digest) or 0.0) > time.monotonic()

    async def _verify(self, digest: bytes, username: str, encoded: str, password: str, address: str) -> Match:
        with self._throttle.attempt(username, address) as attempt:
            work = Work.KNOWN_LOGIN if attempt.is_known else Work.LOGIN
            match = await self._passwords.verify(encoded, password, work, address)
            attempt.succeeded = bool(match)
        if match:
            self._expiries.set(digest, time.monotonic() + REMEMBERED_SECONDS)
        return match
