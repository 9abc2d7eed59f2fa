"""Connections made before the database was lost are never used after it: their server may have been replaced since."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from psycopg2.extensions import make_dsn

from aiopypay.database import Database
from aiopypay.errors import CommitInDoubt, DatabaseUnavailable
from aiopypay.stand_in.mode import ModeSwitch
from aiopypay.statements import Connection, fetch

from .edge import CREATE_MARKS, backend_of, failing, is_marked, mark
from .postgres import PostgresServer
from .proxy import Proxy
from .waiting import Stopwatch, eventually

CONNECTIONS = 3
AT_ONCE_SECONDS = 0.2
# More than the kernel's buffers of a connection hold.
LARGE = 20_000_000


@pytest.fixture(autouse=True)
def _marks(postgres: PostgresServer) -> None:
    with postgres.connected() as connection, connection.cursor() as cursor:
        cursor.execute(CREATE_MARKS)


@pytest.fixture
def switch() -> ModeSwitch:
    return ModeSwitch()


@pytest.fixture
async def database(postgres: PostgresServer, switch: ModeSwitch) -> AsyncIterator[Database]:
    with _closing(Database(postgres.dsn, connections=CONNECTIONS, link=switch)) as database:
        yield database


@contextlib.contextmanager
def _closing(database: Database) -> Iterator[Database]:
    try:
        yield database
    finally:
        database.close()


async def _warm_up(database: Database) -> set[int]:
    """Opens all connections of the pool, and leaves them idle; returns their backends."""
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(database.transaction()) for _ in range(CONNECTIONS)]
        return {await backend_of(connection) for connection in connections}


async def _backend(database: Database) -> int:
    async with database.transaction() as connection:
        return await backend_of(connection)


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _lose_and_find(switch: ModeSwitch) -> None:
    switch.lost("a test")
    switch.online()


async def test_what_is_idle_when_the_database_is_lost_is_closed_at_once(
    postgres: PostgresServer, database: Database, switch: ModeSwitch
) -> None:
    before = await _warm_up(database)
    switch.lost("a test")

    await eventually(lambda: not before & set(postgres.backends()), 5, "its backends are gone")


async def test_what_is_in_use_then_is_closed_when_it_comes_back(
    postgres: PostgresServer, database: Database, switch: ModeSwitch
) -> None:
    async with database.reading() as connection:
        before = await backend_of(connection)
        _lose_and_find(switch)

    assert await _backend(database) != before
    await eventually(lambda: before not in postgres.backends(), 5, "its backend is gone")


async def test_what_connects_meanwhile_is_not_used(postgres: PostgresServer, switch: ModeSwitch) -> None:
    async with Proxy(postgres.port) as proxy:
        with _closing(Database(proxy.dsn(postgres.dsn), connections=1, link=switch)) as database:
            proxy.black_hole()
            connecting = asyncio.create_task(_backend(database))
            await eventually(lambda: proxy.connections == 1, 5, "it connects")
            _lose_and_find(switch)
            proxy.heal()

            with pytest.raises(DatabaseUnavailable):
                await connecting
            assert switch.is_up
            await _backend(database)


async def test_a_transaction_that_began_before_is_not_committed(
    postgres: PostgresServer, database: Database, switch: ModeSwitch
) -> None:
    async with failing(database, DatabaseUnavailable) as connection:
        mark_id = await mark(connection)
        _lose_and_find(switch)

    assert not is_marked(postgres, mark_id)


async def test_a_commit_that_is_answered_afterwards_is_in_doubt(postgres: PostgresServer, switch: ModeSwitch) -> None:
    """It is true of a server that may not be the database any more."""
    async with Proxy(postgres.port) as proxy:

        async def lose_and_find() -> None:
            _lose_and_find(switch)

        proxy.before_commit = lose_and_find
        with _closing(Database(proxy.dsn(postgres.dsn), connections=1, link=switch)) as database:
            async with failing(database, CommitInDoubt) as connection:
                mark_id = await mark(connection)
        assert is_marked(postgres, mark_id)


async def test_without_a_link_it_is_told(postgres: PostgresServer) -> None:
    with _closing(Database(postgres.dsn, connections=CONNECTIONS)) as database:
        before = await _warm_up(database)
        assert await _backend(database) in before
        database.renew()

        assert await _backend(database) not in before
        await eventually(lambda: not before & set(postgres.backends()), 5, "the backends of before are gone")


async def test_closing_waits_for_no_server_and_leaves_nothing_behind(
    postgres: PostgresServer, database: Database, switch: ModeSwitch
) -> None:
    """Even where a server is frozen that was about to be sent more than fits on the way."""

    async def send(connection: Connection) -> None:
        await fetch(connection, f"SELECT length('{'x' * LARGE}')")

    async def fail() -> None:
        async with database.transaction() as connection:
            await send(connection)

    open_before = _descriptors()
    await _warm_up(database)
    with postgres.frozen():
        sending = asyncio.create_task(fail())
        await asyncio.sleep(0)
        watch = Stopwatch()
        switch.lost("a test")
        assert watch.seconds < AT_ONCE_SECONDS
        with pytest.raises(DatabaseUnavailable):
            await sending
        assert _descriptors() == open_before


async def test_all_connections_lead_to_the_server_that_was_first(postgres: PostgresServer, switch: ModeSwitch) -> None:
    """Of two that both take writes, one is not the database any more. It is told by who was there first."""
    async with Proxy(postgres.port) as proxy:
        dsn = make_dsn(postgres.dsn, host="127.0.0.1,127.0.0.1", port=f"{proxy.port},{postgres.port}")
        with (
            _closing(Database(dsn, connections=CONNECTIONS, link=switch)) as payments,
            _closing(Database(dsn, connections=CONNECTIONS, link=switch)) as others,
        ):
            proxy.black_hole()
            await _backend(payments)
            proxy.heal()
            await _warm_up(payments)
            await _warm_up(others)

            assert proxy.connections == 0


async def test_a_lost_server_hands_over_to_the_one_that_was_settled_to(
    postgres: PostgresServer, switch: ModeSwitch
) -> None:
    async with Proxy(postgres.port) as first, Proxy(postgres.port) as second:
        dsn = make_dsn(postgres.dsn, host="127.0.0.1,127.0.0.1", port=f"{first.port},{second.port}")
        with (
            _closing(Database(dsn, connections=CONNECTIONS, link=switch)) as requests,
            _closing(Database(dsn, connections=1)) as settling,
        ):
            await _backend(requests)
            switch.lost("a test")
            first.refuse()
            settling.renew(first=switch.servers[dsn])
            await _backend(settling)
            await first.accept()
            switch.online({dsn: str(settling.server)})

            await _warm_up(requests)
            assert (first.connections, second.connections) == (0, CONNECTIONS + 1)


async def test_a_server_that_does_not_do_is_asked_last_the_next_time(postgres: PostgresServer) -> None:
    async with Proxy(postgres.port) as proxy:
        dsn = make_dsn(postgres.dsn, host="127.0.0.1,127.0.0.1", port=f"{proxy.port},{postgres.port}")
        with _closing(Database(dsn, connections=1)) as database:
            for connections in (1, 0, 1):
                await _backend(database)
                assert proxy.connections == connections
                database.renew()
                await eventually(lambda: proxy.connections == 0, 5, "the connection of before is closed")
