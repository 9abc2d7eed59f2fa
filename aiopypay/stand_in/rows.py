"""Verified rows: the one place that reads and writes the store's SQLite connection."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import msgspec

from aiopypay.stand_in.checksums import Checksums, Value
from aiopypay.stand_in.effects import Effects
from aiopypay.stand_in.failures import StoreDamaged, StoreFailed, StoreFull
from aiopypay.stand_in.seal import Seal

# What SQLite says of a file whose content makes no sense, or tells that it is not to be written, or is gone.
CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY)
# What reading such a file raises; the text of SQLite's own messages may be damaged too.
UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)

Row = tuple[Any, ...]

# What is looked up together. Always as many, so that it is one statement to prepare; null is found nowhere.
KEYS_AT_ONCE = 100
LISTED_KEYS = ", ".join("?" * KEYS_AT_ONCE)

ROWS_AT_ONCE = 512
# A power of two, like the one above, that fits the 999 values that older libraries take a statement.
ROWS_AT_ONCE_THEN = 64
VALUES_AT_ONCE = 16 * ROWS_AT_ONCE
_decode_packed = msgspec.json.Decoder().decode
_ONE_ROW = "VALUES ("


class Rows:
    """A connection whose rows are verified when read and accounted for in the seal when written."""

    def __init__(self, connection: sqlite3.Connection, checksums: Checksums, seal: Seal, effects: Effects) -> None:
        self._connection = connection
        self._checksums = checksums
        self._seal = seal
        self._effects = effects
        takes_many = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) >= VALUES_AT_ONCE
        self._rows_at_once = ROWS_AT_ONCE if takes_many else ROWS_AT_ONCE_THEN
        self._in_transaction = False
        self._spoiled = False
        self.damage: str | None = None
        self._failure: str | None = None
        # Called when the disk has answered, or much was written: whoever waits may wait on.
        self.stepped: Callable[[], object] = _nothing

    def _rows(self, table: str, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """Returns the rows found that verify, the others are left out and noted.

        `sql` selects all columns of the table in their order, the checksum last.
        """
        return self._sound(table, self._found(table, sql, parameters))

    def _rows_of(self, table: str, sql: str, keys: Sequence[Value]) -> Iterator[Row]:
        """Yields rows as `_rows` returns them, by KEYS_AT_ONCE values of a column; `sql` has LISTED_KEYS for these."""
        for start in range(0, len(keys), KEYS_AT_ONCE):
            some = keys[start : start + KEYS_AT_ONCE]
            yield from self._rows(table, sql, [*some, *[None] * (KEYS_AT_ONCE - len(some))])

    def _packed_rows(self, table: str, sql: str, parameters: Sequence[Value]) -> list[Row]:
        """Returns rows as `_rows` does; `sql` yields all as one JSON array of arrays, the last two columns as hex."""
        found = self._found(table, sql, parameters)
        try:
            rows = _decode_packed(found[0][0]) if found else []
        except msgspec.DecodeError as error:
            self._note(f"the table {table} cannot be read ({error})")
            return []
        return self._sound(table, [(*row[:-2], *map(bytes.fromhex, row[-2:])) for row in rows])

    def _found(self, table: str, sql: str, parameters: Sequence[Value]) -> list[Row]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except UNREADABLE as error:
            raise_misuse(error)
            self._note(f"the table {table} cannot be read ({error})")
            return []

    def _sound(self, table: str, found: list[Row]) -> list[Row]:
        sound = [row for row in found if row[-1] == self._checksums.row(table, row[:-1])]
        if len(sound) < len(found):
            self._note(f"{len(found) - len(sound)} of the rows read from the table {table} are damaged")
        return sound

    def _add(self, table: str, sql: str, rows: Iterable[Sequence[Value]]) -> None:
        """Writes new rows; `sql` binds their values in the order of the columns, the checksum last."""
        unsealed = list(rows)
        checksums = [self._checksums.row(table, row) for row in unsealed]
        sealed = [(*row, checksum) for row, checksum in zip(unsealed, checksums, strict=True)]
        self._write(sql, sealed)
        self._seal.add(table, checksums)

    def _remove(self, table: str, rows: Iterable[Row]) -> None:
        """Takes rows, as they were read, out of the seal; the caller deletes or overwrites them."""
        self._seal.remove(table, [row[-1] for row in rows])

    def _write(self, sql: str, rows: Iterable[Sequence[Value]]) -> None:
        if not self._in_transaction:
            raise RuntimeError("the store is written in a transaction only")
        # Should the caller go on after an error, the seal would not fit the rows.
        self._spoiled = True
        if _ONE_ROW in sql:
            self._insert(sql, list(rows))
        else:
            self._connection.executemany(sql, rows)
        self._spoiled = False
        self.stepped()

    def _insert(self, sql: str, rows: list[Sequence[Value]]) -> None:
        """Inserts many rows a statement: between two statements the event loop's thread takes its turn.

        Handing the interpreter over and getting it back costs more than a row does.
        """
        done, size = 0, self._rows_at_once
        while done < len(rows):
            while size > len(rows) - done:
                size //= 2
            values = [value for row in rows[done : done + size] for value in row]
            self._connection.execute(_of_rows(sql, size), values)
            done += size

    def _note(self, damage: str) -> None:
        """Remembers damage. The first that is found is the one that is told."""
        if self.damage is None:
            self.damage = damage

    def _require_sound(self) -> None:
        if self.damage is not None:
            raise StoreDamaged(self.damage)

    @contextmanager
    def _failures_told(self) -> Iterator[None]:
        """Raises what SQLite says as StoreFailed or StoreDamaged.

        A full disk is undone by SQLite and can be tried again. After anything else, a failed sync above all, it is not
        known what is on disk: the kernel tells of it once and then calls the same pages clean. No further write then.
        """
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise_misuse(error)
            if error.sqlite_errorcode & 0xFF in CORRUPT:
                self._note(f"the store is malformed ({error})")
                raise StoreDamaged(self.damage) from error
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise StoreFull(f"the store could not be written ({error})") from error
            self._failure = f"the store could not be written ({error}, {error.sqlite_errorname})"
            raise StoreFailed(f"the store could not be written ({error})") from error


@cache
def _of_rows(sql: str, number: int) -> str:
    """Returns an INSERT of one row as one of so many. The numbers are powers of two: few statements to prepare."""
    head, values = sql.split(_ONE_ROW)
    row, bracket, rest = values.partition(")")
    return f"{head}{_ONE_ROW}{row}{f'), ({row}' * (number - 1)}{bracket}{rest}"


def _nothing() -> None:
    """Nobody waits."""


def raise_misuse(error: Exception) -> None:
    """Raises errors that are defects of ours; returns from those that the files or the disk caused."""
    if isinstance(error, sqlite3.ProgrammingError | sqlite3.IntegrityError | sqlite3.NotSupportedError):
        raise error
