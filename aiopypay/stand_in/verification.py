"""The verification of a whole store when it is opened.

All of it, each time: a lookup in a damaged index would find nothing, and "not known" is an answer with consequences.
A million accounts and a million orders take some ten seconds.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from aiopypay.stand_in.checksums import ROW_BYTES, Checksums
from aiopypay.stand_in.effects import Effects
from aiopypay.stand_in.formats import FORMAT, OLDEST_FORMAT, decode_entry
from aiopypay.stand_in.rows import UNREADABLE, raise_misuse
from aiopypay.stand_in.seal import Seal, combined, decode_seal
from aiopypay.stand_in.tables import (
    SCAN_JOURNAL,
    SCANS,
    SELECT_SCHEMA,
    SELECT_SEAL,
    expected_schema,
)
from aiopypay.stand_in.tail import Mark, boot_id

TOLD_MAX = 5


@dataclass(slots=True)
class Findings:
    """What the verification found. `damage` has a sentence for each thing; `lost` is what may be lost, for the log."""

    seal: Seal = field(default_factory=Seal)
    seal_checksum: bytes = b""
    effects: Effects = field(default_factory=Effects)
    damage: list[str] = field(default_factory=list)
    lost: str | None = None

    def told(self) -> str | None:
        """Returns the damage in one line; None when there is none."""
        more = len(self.damage) - TOLD_MAX
        return "; ".join(self.damage[:TOLD_MAX] + [f"and {more} more"] * (more > 0)) or None


class Verification:
    """One verification of one store, by the checksums of its rows, its seal, and the mark in its tail file."""

    def __init__(self, connection: sqlite3.Connection, checksums: Checksums, mark: Mark | None) -> None:
        self._connection = connection
        self._checksums = checksums
        self._mark = mark
        self._findings = Findings()

    def run(self) -> Findings:
        """Verifies everything. Raises nothing for whatever is in the files."""
        with self._damage_noted("the store's seal"):
            if self._read_seal():
                with self._damage_noted("the store's structure"):
                    self._verify_structure()
                self._compare_with_mark()
                for table, scan in SCANS.items():
                    with self._damage_noted(f"the table {table}"):
                        self._verify_table(table, scan)
                with self._damage_noted("the journal"):
                    self._verify_journal()
        self._findings.effects.keep()
        return self._findings

    def _verify_structure(self) -> None:
        problems = [row[0] for row in self._connection.execute("PRAGMA integrity_check(3)")]
        if problems != ["ok"]:
            text = ", ".join(" ".join(str(problem).split()) for problem in problems)
            self._findings.damage.append(f"the store is malformed ({text})")
        if self._connection.execute(SELECT_SCHEMA).fetchall() != expected_schema(self._findings.seal.format):
            self._findings.damage.append("the store's tables are not as they were made")

    def _read_seal(self) -> bool:
        rows = self._connection.execute(SELECT_SEAL).fetchall()
        if len(rows) != 1 or rows[0][2] != self._checksums.row("seal", rows[0][:2]):
            self._findings.damage.append("the store's seal does not verify: store or key are damaged or foreign")
            return False
        seal = decode_seal(rows[0][1])
        if not OLDEST_FORMAT <= seal.format <= FORMAT:
            told = f"the store has format {seal.format}, this version reads up to {FORMAT}"
            self._findings.damage.append(told)
            return False
        self._findings.seal = seal
        self._findings.seal_checksum = rows[0][2]
        return True

    def _compare_with_mark(self) -> None:
        """Is everything there that was acknowledged?"""
        seal, mark, damage = self._findings.seal, self._mark, self._findings.damage
        if mark is None:
            damage.append("the tail file does not verify")
        elif seal.commit < mark.synced:
            damage.append(f"transactions {seal.commit + 1} to {mark.synced}, acknowledged, are missing from the store")
        elif seal.commit < mark.commit and mark.boot == boot_id() and any(mark.boot):
            damage.append(f"transactions {seal.commit + 1} to {mark.commit} are missing from the store")
        elif seal.commit < mark.commit:
            self._findings.lost = (
                f"with the power, {mark.commit - seal.commit} transactions were lost that were never acknowledged"
            )
        elif seal.commit == mark.commit and self._findings.seal_checksum != mark.seal_checksum:
            damage.append("the store and its tail file disagree: one of them was replaced")

    def _verify_table(self, table: str, scan: str) -> None:
        count, digest, damaged = 0, 0, 0
        for row in self._connection.execute(scan):
            count += 1
            digest ^= combined([row[-1]])
            damaged += row[-1] != self._checksums.row(table, row[:-1])
        self._compare_with_seal(table, count, digest, damaged)

    def _compare_with_seal(self, table: str, count: int, digest: int, damaged: int) -> None:
        seal, damage = self._findings.seal, self._findings.damage
        if damaged:
            damage.append(f"{damaged} rows of the table {table} are damaged")
        elif count != seal.counts.get(table, 0):
            damage.append(f"the table {table} has {count} rows instead of {seal.counts.get(table, 0)}")
        elif digest.to_bytes(ROW_BYTES, "big") != seal.digests.get(table, bytes(ROW_BYTES)):
            damage.append(f"rows of the table {table} were replaced")

    def _verify_journal(self) -> None:
        seal, mark = self._findings.seal, self._mark
        place, link, count, digest, damaged, pending = seal.base, seal.base_link, 0, 0, 0, 0
        broken = None
        try:
            for row in self._connection.execute(SCAN_JOURNAL):
                sequence, content, checksum = row[0], row[2], row[-1]
                if sequence != place + 1:
                    self._tell_missing(place + 1, sequence - 1)
                elif row[3] != self._checksums.link(link, sequence, content):
                    self._findings.damage.append(f"entry {sequence} does not follow the one before it")
                if checksum != self._checksums.row("journal", row[:-1]):
                    damaged += 1
                    self._findings.damage.append(f"entry {sequence} is damaged")
                elif row[4] == "pending":
                    pending += 1
                    self._findings.effects.add([decode_entry(content)])
                place, link, count, digest = sequence, row[3], count + 1, digest ^ combined([checksum])
        except UNREADABLE as error:
            broken = error
        expected = max(seal.last, mark.last if mark else 0)
        if place < expected:
            self._tell_missing(place + 1, expected)
        if broken:
            raise broken
        if (place, link, pending) != (seal.last, seal.last_link, seal.pending):
            self._findings.damage.append("the journal does not end where the store's seal says")
        self._compare_with_seal("journal", count, digest, 0)

    def _tell_missing(self, first: int, last: int) -> None:
        which = f"entry {first}" if first == last else f"entries {first} to {last}"
        acknowledged = ", acknowledged," if self._mark and last <= self._mark.last else ""
        verb = "is" if first == last else "are"
        self._findings.damage.append(f"{which}{acknowledged} {verb} missing from the journal")

    @contextmanager
    def _damage_noted(self, what: str) -> Iterator[None]:
        try:
            yield
        except UNREADABLE as error:
            raise_misuse(error)
            self._findings.damage.append(f"{what} cannot be read ({error})")
        except (msgspec.MsgspecError, ValueError, TypeError, OverflowError) as error:
            self._findings.damage.append(f"{what} makes no sense ({error})")
