"""The tail file: which transaction was acknowledged last, kept apart from the store itself.

SQLite drops the tail of a damaged write-ahead log without a word. This file tells: it knows how far the store must
reach. It has two slots, on pages of their own, each with its checksum. A slot that may be the only one on disk is
never written to, so a torn write costs the newer mark at most, and the store is then ahead of its tail, as after
a kill between the two.
"""

import errno
import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from aiopypay.stand_in.checksums import CHAIN_START, ROW_BYTES, Checksums

SLOT_DISTANCE = 4096
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_FORM = struct.Struct(f">8sQQQ{len(CHAIN_START)}s{ROW_BYTES}s16s")
_MAGIC = b"aiopypay"
_CHECKSUM_BYTES = 32
_SLOT_BYTES = _FORM.size + _CHECKSUM_BYTES


@dataclass(frozen=True, slots=True)
class Mark:
    """What was acknowledged last.

    `synced` is the number of the last transaction that was acknowledged as being on disk, `last` and `last_link` the
    journal's newest entry then. `commit` is the number of the last transaction at all, synced or not, and
    `seal_checksum` that of its seal; `boot` is the run of the machine in which it was made (zeros: not known).
    """

    synced: int
    last: int
    last_link: bytes
    commit: int
    seal_checksum: bytes
    boot: bytes


class Tail:
    """The open tail file."""

    def __init__(self, path: Path, checksums: Checksums) -> None:
        """Opens the file. Raises OSError."""
        self._checksums = checksums
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        slots = _slots(os.pread(self._descriptor, SLOT_DISTANCE + _SLOT_BYTES, 0), checksums)
        self._mark = max((mark for mark in slots if mark), key=lambda mark: mark.commit, default=None)
        # Writes go to the other slot. This one is made certain to be on disk before the first of them.
        self._kept = slots.index(self._mark)
        os.fdatasync(self._descriptor)

    @property
    def mark(self) -> Mark | None:
        """The newest mark; None when neither slot verifies."""
        return self._mark

    def write(self, mark: Mark, *, durable: bool) -> None:
        """Writes a mark, on disk when it returns if `durable`. Raises OSError.

        One that is not durable is for a kill of the process alone, which the operating system outlives; what it says
        of synced transactions is what the last durable one said.
        """
        if not durable and self._mark:
            mark = replace(mark, synced=self._mark.synced, last=self._mark.last, last_link=self._mark.last_link)
        slot = 1 - self._kept
        if os.pwrite(self._descriptor, _packed(mark, self._checksums), slot * SLOT_DISTANCE) != _SLOT_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if durable:
            os.fdatasync(self._descriptor)
            self._kept = slot
        self._mark = mark

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)


def first_content(mark: Mark, checksums: Checksums) -> bytes:
    """Returns the content of a new tail file."""
    return _packed(mark, checksums).ljust(SLOT_DISTANCE, b"\0") + bytes(_SLOT_BYTES)


def boot_id() -> bytes:
    """Returns which run of this machine it is: another after each loss of power. Zeros when it cannot be told."""
    try:
        return UUID(BOOT_ID.read_text("ascii").strip()).bytes
    except (OSError, ValueError):
        return bytes(16)


def _packed(mark: Mark, checksums: Checksums) -> bytes:
    content = _FORM.pack(_MAGIC, mark.synced, mark.commit, mark.last, mark.last_link, mark.seal_checksum, mark.boot)
    return content + checksums.slot(content)


def _slots(content: bytes, checksums: Checksums) -> list[Mark | None]:
    return [_unpacked(content[start : start + _SLOT_BYTES], checksums) for start in (0, SLOT_DISTANCE)]


def _unpacked(slot: bytes, checksums: Checksums) -> Mark | None:
    content, checksum = slot[: _FORM.size], slot[_FORM.size :]
    if checksum != checksums.slot(content):
        return None
    _, synced, commit, last, last_link, seal_checksum, boot = _FORM.unpack(content)
    return Mark(synced, last, last_link, commit, seal_checksum, boot)
