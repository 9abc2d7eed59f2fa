"""Statements on a real connection: prepared once, begun with the first, read without a transaction."""

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from aiopypay.database import Database
from aiopypay.errors import DatabaseBusy, StatementRejected
from aiopypay.shared_reads import SharedReads
from aiopypay.statements import Connection, Statement, fetch

from .postgres import PostgresServer

ECHO = Statement("echo", ("number", "text"), "SELECT $1::bigint, $2::text")
DIVIDE = Statement("divide", ("divisor",), "SELECT 1 / $1::bigint")

SELECT_ALL = Statement("select_all", ("least",), "SELECT number FROM grown WHERE number >= $1::bigint")

PREPARED = "SELECT name FROM pg_prepared_statements ORDER BY name"


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[Database]:
    """One connection, so that the next transaction meets what the last one left."""
    database = Database(postgres.dsn, connections=1)
    yield database
    database.close()


async def prepared(connection: Connection) -> list[str]:
    return [row[0] for row in await fetch(connection, PREPARED)]


async def test_a_statement_is_prepared_once_a_connection(database: Database) -> None:
    for number in range(3):
        async with database.transaction() as connection:
            assert await fetch(connection, ECHO, {"number": number, "text": "it's"}) == [(number, "it's")]
            assert await prepared(connection) == ["echo"]


async def test_one_that_fails_when_it_is_new_leaves_nothing_unclear(database: Database) -> None:
    for _ in range(2):
        with pytest.raises(StatementRejected):
            async with database.transaction() as connection:
                await fetch(connection, DIVIDE, {"divisor": 0})
    async with database.transaction() as connection:
        assert await fetch(connection, DIVIDE, {"divisor": 1}) == [(1,)]


async def test_one_that_fails_later_is_still_prepared(database: Database) -> None:
    async with database.transaction() as connection:
        await fetch(connection, DIVIDE, {"divisor": 1})
    with pytest.raises(StatementRejected):
        async with database.transaction() as connection:
            await fetch(connection, DIVIDE, {"divisor": 0})
    async with database.reading() as connection:
        assert await fetch(connection, DIVIDE, {"divisor": 1}) == [(1,)]


async def test_one_that_the_tables_have_outgrown_is_prepared_anew(database: Database) -> None:
    async with database.reading() as connection:
        await fetch(connection, "CREATE TEMPORARY TABLE grown AS SELECT 1 AS number")
        assert await fetch(connection, SELECT_ALL, {"least": 0}) == [(1,)]
        await fetch(connection, "ALTER TABLE grown ALTER number TYPE numeric(9, 2)")
    with pytest.raises(DatabaseBusy):
        async with database.transaction() as connection:
            await fetch(connection, SELECT_ALL, {"least": 0})
    async with database.transaction() as connection:
        # A new session, without the temporary table.
        assert await prepared(connection) == []


async def test_all_statements_of_a_transaction_are_in_it(database: Database) -> None:
    async with database.transaction() as connection:
        await fetch(connection, "CREATE TEMPORARY TABLE noted (number BIGINT)")
    with pytest.raises(LookupError):
        await note_and_fail(database)
    async with database.reading() as connection:
        assert await fetch(connection, "SELECT count(*) FROM noted") == [(0,)]


async def note_and_fail(database: Database) -> None:
    async with database.transaction() as connection:
        await fetch(connection, "INSERT INTO noted VALUES (1)")
        await fetch(connection, "INSERT INTO noted VALUES (2)")
        raise LookupError


async def test_a_transaction_without_a_statement_leaves_none_behind(database: Database) -> None:
    async with database.transaction():
        pass
    with pytest.raises(LookupError):
        async with database.transaction():
            raise LookupError
    async with database.reading() as connection:
        await fetch(connection, "CREATE TEMPORARY TABLE kept AS SELECT 1 AS number")
    async with database.reading() as connection:
        assert await fetch(connection, "SELECT number FROM kept") == [(1,)]


async def test_reading_is_no_transaction(database: Database) -> None:
    async with database.reading() as connection:
        await fetch(connection, "SELECT 1")
        # In a transaction now() stays what it was when it began.
        [(first,)] = await fetch(connection, "SELECT now()")
        [(second,)] = await fetch(connection, "SELECT now()")
    assert first < second


async def test_reads_of_one_moment_share_a_statement_that_begins_after_them(database: Database) -> None:
    asked: list[set[int]] = []
    is_asked = asyncio.Event()

    async def read(connection: Connection, keys: Sequence[int]) -> dict[int, int]:
        asked.append(set(keys))
        is_asked.set()
        rows = await fetch(connection, ECHO, {"number": max(keys), "text": ""})
        return {key: rows[0][0] for key in keys if key}

    async def remembered(keys: Sequence[int]) -> dict[int, int]:
        raise AssertionError(keys)

    reads = SharedReads[int, int](database, read, remembered)
    first = asyncio.gather(*(reads.get(key) for key in (1, 2, 2)))
    await is_asked.wait()
    second = asyncio.gather(*(reads.get(key) for key in (2, 0)))
    assert await first == [2, 2, 2]
    assert await second == [2, None]
    assert asked == [{1, 2}, {2, 0}]
