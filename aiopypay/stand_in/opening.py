"""How a store is made, verified and opened."""

import os
import sqlite3
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from aiopypay.stand_in import directory as files
from aiopypay.stand_in.checksums import CHAIN_START, Checksums, new_key, read_key
from aiopypay.stand_in.failures import StoreDamaged
from aiopypay.stand_in.rows import CORRUPT, UNREADABLE
from aiopypay.stand_in.seal import Seal
from aiopypay.stand_in.tables import SCHEMA, WRITE_SEAL
from aiopypay.stand_in.tail import Mark, Tail, boot_id, first_content
from aiopypay.stand_in.verification import Findings, Verification
from aiopypay.stand_in.wal import frames_written

NODE_ID = "node_id"
PAGE_BYTES = 4096
CACHE_KIBIBYTES = 32 * 1024

NOTHING_MARKED = Mark(-1, 0, CHAIN_START, -1, b"", bytes(16))


@dataclass(frozen=True, slots=True)
class Opened:
    """A store's files, open and verified. In a damaged one the connection reads only, and may be an empty one."""

    connection: sqlite3.Connection
    checksums: Checksums
    findings: Findings
    tail: Tail | None


def open_files(directory: Path) -> Opened:
    """Opens the files of a store, making them on first use. Damage is found, not raised.

    Raises OSError or sqlite3.Error when they cannot be made.
    """
    there = files.present(directory)
    if not there & {files.STORE, files.WAL, files.TAIL}:
        _make(directory, has_key=files.KEY in there)
    try:
        return _open_present(directory)
    except StoreDamaged as damage:
        empty = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        empty.executescript(SCHEMA)
        return Opened(empty, Checksums(b""), Findings(damage=[str(damage)]), None)


def _make(directory: Path, *, has_key: bool) -> None:
    if not has_key:
        files.write_whole(directory / files.KEY, new_key())
    checksums = Checksums(read_key(directory / files.KEY))
    making = directory / (files.STORE + files.MAKING)
    for leftover in directory.glob(making.name + "*"):
        leftover.unlink()
    os.close(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(making, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(f"BEGIN; {SCHEMA} COMMIT")
        _write_first_rows(connection, checksums)
    finally:
        connection.close()
    files.put_in_place(making, directory / files.STORE)


def _write_first_rows(connection: sqlite3.Connection, checksums: Checksums) -> None:
    row = (NODE_ID, str(uuid4()))
    checksum = checksums.row("settings", row)
    seal = Seal()
    seal.add("settings", [checksum])
    sealed = (1, seal.encode())
    connection.execute("BEGIN")
    connection.execute("INSERT INTO settings (name, value, checksum) VALUES (?, ?, ?)", (*row, checksum))
    connection.execute(WRITE_SEAL, (*sealed, checksums.row("seal", sealed)))
    connection.execute("COMMIT")


def _open_present(directory: Path) -> Opened:
    there = files.present(directory)
    missing = {files.STORE, files.KEY} - there
    if missing:
        raise StoreDamaged(f"the files {', '.join(sorted(missing))} are missing from {directory}")
    checksums = Checksums(read_key(directory / files.KEY))
    with ExitStack() as stack:
        tail = _open_tail(directory, checksums) if files.TAIL in there else None
        if tail:
            stack.callback(tail.close)
        connection = stack.enter_context(closing(_connect_reading(directory)))
        findings = Verification(connection, checksums, tail.mark if tail else NOTHING_MARKED).run()
        if tail is None and findings.seal.commit > 0:
            findings.damage.insert(0, f"the file {files.TAIL} is missing from {directory}")
        if findings.damage:
            stack.pop_all()
            return Opened(connection, checksums, findings, tail)
        connection.close()
        # Left behind by the reading connection; a single one in exclusive mode does without.
        (directory / files.SHARED_MEMORY).unlink(missing_ok=True)
        if tail is None:
            tail = _make_tail(directory, checksums, findings)
            stack.callback(tail.close)
        connection, left_out = _connect_writing(directory)
        findings.lost = findings.lost or left_out
        stack.pop_all()
        return Opened(connection, checksums, findings, tail)


def _open_tail(directory: Path, checksums: Checksums) -> Tail:
    try:
        return Tail(directory / files.TAIL, checksums)
    except OSError as error:
        raise StoreDamaged(f"the file {files.TAIL} cannot be opened ({error.strerror})") from error


def _make_tail(directory: Path, checksums: Checksums, findings: Findings) -> Tail:
    seal = findings.seal
    mark = Mark(seal.commit, seal.last, seal.last_link, seal.commit, findings.seal_checksum, boot_id())
    files.write_whole(directory / files.TAIL, first_content(mark, checksums))
    return Tail(directory / files.TAIL, checksums)


def _connect_reading(directory: Path) -> sqlite3.Connection:
    """A damaged store is evidence: this connection cannot write, nor fold the log into the store on closing."""
    path = f"file:{quote(str(directory / files.STORE))}?mode=ro"
    if not (directory / files.WAL).exists():
        path += "&immutable=1"
    connection = sqlite3.connect(path, uri=True, isolation_level=None, check_same_thread=False)
    try:
        _settle(connection)
    except UNREADABLE as error:
        connection.close()
        raise StoreDamaged(f"{files.STORE} cannot be opened ({error})") from error
    return connection


def _connect_writing(directory: Path) -> tuple[sqlite3.Connection, str | None]:
    """Returns the connection, and what SQLite left out of the log, in a sentence."""
    log = directory / files.WAL
    written = frames_written(log) if log.exists() else 0
    connection = sqlite3.connect(directory / files.STORE, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        # The store folds the log itself, where errors are seen; SQLite would pass over them.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        _settle(connection)
        _, kept, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.DatabaseError as error:
        connection.close()
        if error.sqlite_errorcode & 0xFF not in CORRUPT:
            raise
        raise StoreDamaged(f"{files.STORE} cannot be opened ({error})") from error
    if written <= kept:
        return connection, None
    return connection, f"{written - kept} pages of a transaction that was never finished were dropped"


def _settle(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA temp_store = MEMORY")
