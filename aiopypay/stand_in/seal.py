"""The seal: one row that says what the whole store holds after a transaction, rewritten by each."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import msgspec

from aiopypay.stand_in.checksums import CHAIN_START, ROW_BYTES
from aiopypay.stand_in.formats import FORMAT


@dataclass(slots=True)
class Seal:
    """What the store holds after transaction number `commit`, and the format in which it does.

    `counts` and `digests` are, by table, the number of rows and the exclusive or of their checksums: a row that
    vanished, or came back, shows. `base` is the sequence that the journal's first entry follows, `base_link` what
    it is chained to; `last` and `last_link` are the journal's newest entry, or the base when there is none.
    """

    format: int = FORMAT
    commit: int = 0
    base: int = 0
    base_link: bytes = CHAIN_START
    last: int = 0
    last_link: bytes = CHAIN_START
    pending: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)

    def copy(self) -> "Seal":
        """Returns a seal to be changed by a transaction that may be rolled back."""
        return replace(self, counts=dict(self.counts), digests=dict(self.digests))

    def add(self, table: str, checksums: Iterable[bytes]) -> None:
        """Takes rows into account that were added."""
        self._change(table, list(checksums), 1)

    def remove(self, table: str, checksums: Iterable[bytes]) -> None:
        """Takes rows into account that were removed."""
        self._change(table, list(checksums), -1)

    def _change(self, table: str, checksums: list[bytes], sign: int) -> None:
        digest = combined(checksums) ^ int.from_bytes(self.digests.get(table, b""), "big")
        self.digests[table] = digest.to_bytes(ROW_BYTES, "big")
        self.counts[table] = self.counts.get(table, 0) + sign * len(checksums)

    def encode(self) -> bytes:
        """Returns the seal as the bytes that `decode_seal` takes."""
        return msgspec.msgpack.encode(self)


def combined(checksums: Iterable[bytes]) -> int:
    """Returns the exclusive or of checksums; their order does not matter."""
    digest = 0
    for checksum in checksums:
        digest ^= int.from_bytes(checksum, "big")
    return digest


decode_seal = msgspec.msgpack.Decoder(Seal).decode
