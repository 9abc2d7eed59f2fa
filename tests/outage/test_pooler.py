"""PgBouncer before the database: with whole sessions it serves; else the start says what to set."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from aiopypay.addresses import SESSION_SETTINGS
from aiopypay.database import Database
from aiopypay.errors import DatabaseUnfit
from aiopypay.statements import Statement, fetch

from .pooler import Pooler
from .postgres import PostgresServer
from .service import NewService
from .shop import open_shop
from .test_database_properties import refused_start, settings_of

Settings = dict[str, str | int]

# It knows nothing of `options`, and drops them where it is told to.
SESSIONS: Settings = {
    "pool_mode": "session",
    "ignore_startup_parameters": "options",
    "server_login_retry": 1,
}
TRANSACTIONS: Settings = {**SESSIONS, "pool_mode": "transaction"}
ECHO = Statement("echo", ("number",), "SELECT $1::bigint")


@pytest.fixture
def pooler(empty_postgres: PostgresServer) -> Iterator[Pooler]:
    """Not yet started."""
    pooler = Pooler(empty_postgres)
    yield pooler
    pooler.remove()


@contextlib.asynccontextmanager
async def connections(pooler: Pooler, count: int) -> AsyncIterator[Database]:
    """A database that has had so many sessions open at a time."""
    database = Database(pooler.dsn, connections=count)
    try:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(count):
                connection = await stack.enter_async_context(database.transaction())
                await fetch(connection, "SELECT 1")
        yield database
    finally:
        database.close()


class TestWholeSessions:
    async def test_they_have_the_settings_that_the_pooler_dropped(self, pooler: Pooler) -> None:
        pooler.start(**SESSIONS)

        assert await settings_of(pooler.dsn) == SESSION_SETTINGS

    async def test_each_client_has_them(self, pooler: Pooler) -> None:
        """Also in a session that another client had before, and left to be reset."""
        pooler.start(**SESSIONS, default_pool_size=2)
        for _ in range(3):
            async with connections(pooler, 1) as database, database.transaction() as connection:
                assert await fetch(connection, ECHO, {"number": 1}) == [(1,)]
            assert await settings_of(pooler.dsn) == SESSION_SETTINGS

    async def test_the_service_is_back_as_soon_as_the_database(
        self, empty_postgres: PostgresServer, pooler: Pooler, new_service: NewService
    ) -> None:
        pooler.start(**SESSIONS)
        async with open_shop(empty_postgres, new_service, {"DATABASE_URL": pooler.dsn}) as shop:
            online = await shop.pay("1", comment="it's \\ online")
            await asyncio.to_thread(empty_postgres.stop)
            accepted = await shop.accepted("2", comment="it's \\ offline")
            await asyncio.to_thread(empty_postgres.start)
            await shop.service.wait_mode("online", within_seconds=5)

            assert online.status == 200
            assert (await shop.order(accepted))["status"] == "posted"
            assert (await shop.pay("3")).status == 200


class TestSharedSessions:
    @pytest.mark.parametrize("mode", ["transaction", "statement"])
    async def test_they_stop_the_start(self, pooler: Pooler, new_service: NewService, mode: str) -> None:
        pooler.start(**SESSIONS | {"pool_mode": mode})
        service = new_service(pooler.dsn)

        assert "set pool_mode = session" in await refused_start(service)
        assert "set pool_mode = session" in (await asyncio.to_thread(service.run, "migrate")).stderr

    @pytest.mark.parametrize("in_turn", [0, 1])
    async def test_however_many_are_idle_and_whoever_comes_next(self, pooler: Pooler, in_turn: int) -> None:
        pooler.start(**TRANSACTIONS, server_round_robin=in_turn)
        with contextlib.ExitStack() as stack:
            others = [stack.enter_context(contextlib.closing(pooler.connected())) for _ in range(3)]
            for other in others:
                with other.cursor() as cursor:
                    cursor.execute("SELECT 1")
            for other in others:
                other.rollback()
            for _ in range(4):
                with pytest.raises(DatabaseUnfit) as unfit:
                    async with connections(pooler, 1):
                        raise AssertionError
                assert "set pool_mode = session" in unfit.value.reason

    async def test_nothing_is_set_in_what_is_others_too(self, pooler: Pooler) -> None:
        pooler.start(**TRANSACTIONS)
        with pytest.raises(DatabaseUnfit):
            async with connections(pooler, 1):
                raise AssertionError

        with contextlib.closing(pooler.connected()) as other, other.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            assert cursor.fetchall() == [("0",)]

    async def test_they_are_waited_for_where_they_are_first_seen_in_an_outage(
        self, empty_postgres: PostgresServer, pooler: Pooler, new_service: NewService
    ) -> None:
        pooler.start(**SESSIONS)
        async with open_shop(empty_postgres, new_service, {"DATABASE_URL": pooler.dsn}) as shop:
            pooler.stop()
            accepted = await shop.accepted("1")
            await shop.restart()
            pooler.start(**TRANSACTIONS)
            await shop.waits_for("set pool_mode = session")
            assert (await shop.order(accepted))["status"] == "pending"
            pooler.stop()
            pooler.start(**SESSIONS)
            await shop.is_online()

            assert (await shop.order(accepted))["status"] == "posted"

    async def test_those_that_are_not_reset_are_refused(self, pooler: Pooler) -> None:
        pooler.start(**SESSIONS, server_reset_query="")
        async with connections(pooler, 1) as database, database.transaction() as connection:
            await fetch(connection, ECHO, {"number": 1})

        with pytest.raises(DatabaseUnfit) as unfit:
            async with connections(pooler, 1):
                raise AssertionError
        assert "server_reset_query = DISCARD ALL" in unfit.value.reason


async def test_what_the_driver_must_know_from_the_start_is_told(
    empty_postgres: PostgresServer, pooler: Pooler, new_service: NewService
) -> None:
    """The driver quotes backslashes by what it was told first; setting it afterwards would change their meaning."""
    empty_postgres.execute_elsewhere(f"ALTER DATABASE {empty_postgres.database} SET standard_conforming_strings = off")
    pooler.start(**SESSIONS)

    assert "ALTER ROLE … SET standard_conforming_strings = 'on'" in await refused_start(new_service(pooler.dsn))
