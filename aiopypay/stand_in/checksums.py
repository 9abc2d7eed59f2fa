"""Keyed checksums over what the store holds, and the file with their key.

They tell damage, whole rows swapped and rows of another store from what this node wrote. They do not keep out
somebody who can read the key.
"""

import hashlib
import hmac
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from aiopypay.stand_in.failures import StoreDamaged

KEY_BYTES = 32
CHAIN_BYTES = 32
ROW_BYTES = 16

# What the first entry of a journal is chained to.
CHAIN_START = bytes(CHAIN_BYTES)

Value = int | str | bytes | None

_encode = msgspec.msgpack.Encoder().encode


class Checksums:
    """Computes the checksums of one store."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def row(self, table: str, values: Sequence[Value]) -> bytes:
        """Returns the checksum of a row: over its table's name and all its values, in the order of the columns.

        Keyed BLAKE2b, at half the cost of HMAC-SHA256 over so few bytes; a store writes and reads many rows.
        """
        return hashlib.blake2b(_encode((table, *values)), key=self._key, digest_size=ROW_BYTES).digest()

    def link(self, previous: bytes, sequence: int, content: bytes) -> bytes:
        """Returns the link of a journal entry: it vouches for the entry, its place, and all entries before it."""
        return hmac.digest(self._key, previous + sequence.to_bytes(8, "big") + content, "sha256")

    def slot(self, content: bytes) -> bytes:
        """Returns the checksum of a slot of the tail file."""
        return hmac.digest(self._key, b"tail" + content, "sha256")


def new_key() -> bytes:
    """Returns a key for a store that is made."""
    return os.urandom(KEY_BYTES)


def read_key(path: Path) -> bytes:
    """Returns the key in this file. Raises StoreDamaged when there is none."""
    try:
        key = path.read_bytes()
    except OSError as error:
        raise StoreDamaged(f"the file {path.name} cannot be read ({error.strerror})") from error
    if len(key) != KEY_BYTES:
        raise StoreDamaged(f"the file {path.name} has {len(key)} bytes instead of {KEY_BYTES}")
    return key
