"""Reads that share a statement: those that wait while one runs are the next one's."""

import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

from aiopypay.batches import Batcher
from aiopypay.database import Database
from aiopypay.errors import DatabaseUnavailable, Problem, StatementRejected
from aiopypay.statements import Connection

Key = TypeVar("Key", int, str)
Row = TypeVar("Row")

READS_AT_ONCE = 200
QUEUE_SIZE = 2_000


class SharedReads(Generic[Key, Row]):
    """Reads rows by their key. A row is never older than the request for it: each is read by a statement begun after.

    `online` asks the database by one statement, `offline` what the node remembers, where the database is away.
    """

    def __init__(
        self,
        database: Database,
        online: Callable[[Connection, Sequence[Key]], Awaitable[Mapping[Key, Row]]],
        offline: Callable[[Sequence[Key]], Awaitable[Mapping[Key, Row | Exception | None]]],
    ) -> None:
        self._database = database
        self._online: Callable[[Connection, Sequence[Key]], Awaitable[Mapping[Key, Row]]] = online
        self._offline: Callable[[Sequence[Key]], Awaitable[Mapping[Key, Row | Exception | None]]] = offline
        self._batches: Batcher[Key, Row | None] = Batcher(self._read, batch_size=READS_AT_ONCE, queue_size=QUEUE_SIZE)

    async def get(self, key: Key) -> Row | None:
        """Returns the row, None where there certainly is none. Raises Overloaded, and what both sources raise."""
        return await self._batches.submit(key)

    async def _read(self, keys: list[Key]) -> list[Row | Exception | None]:
        distinct = list(set(keys))
        found = await self._found(distinct)
        return [_own(found.get(key)) for key in keys]

    async def _found(self, keys: list[Key]) -> Mapping[Key, Row | Exception | None]:
        """What fails is split until the key that it is about stands alone, unless all would fail alike."""
        try:
            return await self._ask(keys)
        except Exception as failure:
            if len(keys) == 1:
                return {keys[0]: failure}
            if isinstance(failure, Problem) and not isinstance(failure, StatementRejected):
                raise
        middle = len(keys) // 2
        return {**await self._found(keys[:middle]), **await self._found(keys[middle:])}

    async def _ask(self, keys: list[Key]) -> Mapping[Key, Row | Exception | None]:
        try:
            async with self._database.reading() as connection:
                return await self._online(connection, keys)
        except DatabaseUnavailable:
            return await self._offline(keys)


def _own(row: Row | Exception | None) -> Row | Exception | None:
    """Returns an exception of the caller's own: one instance raised in many tasks would grow their tracebacks."""
    return copy.copy(row) if isinstance(row, Exception) else row
