"""From where users have logged in within 30 days. It is kept in a file of the node, beside the requests.

A file, not the database: it must be known while the database is away, is written at each first login of a day, and
losing it costs a privilege, never money. It holds keyed digests, of bounded number: eight addresses a user, the newest;
the 100 000 users who logged in last.
"""

import asyncio
import contextlib
import hashlib
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

from aiopypay.newest import Newest
from aiopypay.stand_in.directory import write_whole

KNOWN_DAYS = 30
ADDRESSES_OF_USER_MAX = 8
USERS_MAX = 100_000
SAVE_SECONDS = 60.0
STOP_PATIENCE_SECONDS = 2.0

MAGIC = b"aiopypay known 1"
KEY_BYTES, DIGEST_BYTES, DAY_BYTES, CHECKSUM_BYTES = 32, 8, 2, 32
ENTRY_BYTES = DIGEST_BYTES + DAY_BYTES

logger = logging.getLogger(__name__)


class KnownAddresses:
    """Who has logged in from where. `content` is what a file held; ValueError where it is damaged."""

    def __init__(self, content: bytes | None = None) -> None:
        self.is_changed = False
        self._key = secrets.token_bytes(KEY_BYTES)
        # By user: the digests of addresses, each with the day of the last login from there, the oldest first.
        self._users: Newest[bytes, bytes] = Newest(USERS_MAX)
        if content is not None:
            self._key, users = _decoded(content)
            for user, entries in users:
                lasting = b"".join(_lasting(entries, _today()))
                if lasting:
                    self._users.set(user, lasting)

    def knows(self, username: str, address: str) -> bool:
        """Tells whether the user (in any case) has logged in from this address within 30 days."""
        entries = self._users.get(self._digest(username.lower())) or b""
        wanted = self._digest(address)
        return any(entry[:DIGEST_BYTES] == wanted for entry in _lasting(entries, _today()))

    def note(self, username: str, address: str) -> None:
        """The user has logged in from this address."""
        user, entry = self._digest(username.lower()), self._digest(address) + _today().to_bytes(DAY_BYTES, "big")
        before = self._users.get(user) or b""
        others = [other for other in _lasting(before, _today()) if other[:DIGEST_BYTES] != entry[:DIGEST_BYTES]]
        entries = b"".join([*others, entry][-ADDRESSES_OF_USER_MAX:])
        self._users.set(user, entries)
        self.is_changed |= entries != before

    def snapshot(self) -> tuple[bytes, Mapping[bytes, bytes]]:
        """Returns what `encoded` takes, for another thread."""
        return self._key, self._users.copy()

    def _digest(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode(), key=self._key, digest_size=DIGEST_BYTES).digest()


@contextlib.asynccontextmanager
async def kept_addresses(path: Path) -> AsyncIterator[KnownAddresses]:
    """Reads the file, and writes it each minute where something has changed, and in the end.

    Threads of its own write: neither the event loop nor the end waits for a disk that hangs.
    """
    known = _read(path)
    file = _File(path, known)
    keeper = asyncio.create_task(file.keep())
    try:
        yield known
    finally:
        keeper.cancel()
        await asyncio.wait({keeper})
        if known.is_changed:
            await asyncio.to_thread(file.save().join, STOP_PATIENCE_SECONDS)


class _File:
    def __init__(self, path: Path, known: KnownAddresses) -> None:
        self._path = path
        self._known = known
        self._one_at_a_time = threading.Lock()

    async def keep(self) -> None:
        saving: threading.Thread | None = None
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            if self._known.is_changed and not (saving and saving.is_alive()):
                saving = self.save()

    def save(self) -> threading.Thread:
        thread = threading.Thread(target=self._write, args=self._known.snapshot(), name="known-addresses", daemon=True)
        self._known.is_changed = False
        thread.start()
        return thread

    def _write(self, key: bytes, users: Mapping[bytes, bytes]) -> None:
        try:
            with self._one_at_a_time:
                write_whole(self._path, encoded(key, users))
        except OSError as error:
            self._known.is_changed = True
            logger.warning(
                "%s was not written (%s): after a restart users are not known by address.", self._path, error.strerror
            )


def _read(path: Path) -> KnownAddresses:
    try:
        return KnownAddresses(path.read_bytes())
    except FileNotFoundError:
        return KnownAddresses()
    except (OSError, ValueError) as error:
        logger.warning("%s is not used (%s): users are not known by address until they log in.", path, error)
        return KnownAddresses()


def encoded(key: bytes, users: Mapping[bytes, bytes]) -> bytes:
    """Returns a file's content: the key, each user with a count of entries and the entries, a checksum."""
    parts = [MAGIC, key]
    for user, entries in users.items():
        parts += [user, bytes([len(entries) // ENTRY_BYTES]), entries]
    content = b"".join(parts)
    return content + hashlib.blake2b(content, digest_size=CHECKSUM_BYTES).digest()


def _decoded(content: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    body, checksum = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
    if not body.startswith(MAGIC) or hashlib.blake2b(body, digest_size=CHECKSUM_BYTES).digest() != checksum:
        raise ValueError("it is damaged")
    place = len(MAGIC) + KEY_BYTES
    key, users = body[len(MAGIC) : place], []
    while place < len(body):
        start = place + DIGEST_BYTES + 1
        end = start + body[start - 1] * ENTRY_BYTES
        users.append((body[place : start - 1], body[start:end]))
        place = end
    return key, users


def _lasting(entries: bytes, today: int) -> Iterator[bytes]:
    for place in range(0, len(entries), ENTRY_BYTES):
        entry = entries[place : place + ENTRY_BYTES]
        if today - int.from_bytes(entry[DIGEST_BYTES:], "big") <= KNOWN_DAYS:
            yield entry


def _today() -> int:
    """The number of the day: two bytes last until 2149."""
    return int(time.time() // 86_400)
