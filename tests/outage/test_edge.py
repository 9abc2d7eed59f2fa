"""The edge to aiopg.sa against a real server: each known danger is provoked, and shows as what the edge promises.

The dangers: 1 server-side cancels · 2 swallowed errors · 3 nesting · 4 connects that hang · 5 connect_timeout ·
6 several addresses · 7 what timed out may still land · 8 no server at the start · 9 kinds of failure.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Literal

import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from aiopypay import errors, migrations
from aiopypay.database import DEADLINE_SECONDS, Database
from aiopypay.embedded.roles import SERVICE
from aiopypay.errors import CommitInDoubt, DatabaseBusy, DatabaseUnavailable, Overloaded, StatementRejected
from aiopypay.ledger import TransferOrder
from aiopypay.pool import QUEUE_SECONDS
from aiopypay.servers import CONNECT_SECONDS
from aiopypay.stand_in.records import Entry
from aiopypay.statements import fetch
from aiopypay.store.orders import OrderRecord

from .edge import (
    CREATE_MARKS,
    LOCK_MARKS,
    EdgeNode,
    a_transfer,
    backend_of,
    failing,
    is_marked,
    mark,
    running_node,
)
from .postgres import PostgresServer
from .proxy import Cut, Direction, Proxy
from .service import free_port
from .waiting import Stopwatch, eventually

# On a busy machine the event loop is late by this much.
SLACK_SECONDS = 0.4
AT_ONCE_SECONDS = 0.2
CONNECTIONS = 3

# A user, an account to pay from, and one to pay to.
Accounts = tuple[int, int, int]


@pytest.fixture(autouse=True)
def _marks(postgres: PostgresServer) -> None:
    with postgres.connected() as connection, connection.cursor() as cursor:
        cursor.execute(CREATE_MARKS)


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[Database]:
    with _closing(Database(postgres.dsn, connections=CONNECTIONS)) as database:
        yield database


@pytest.fixture
async def proxy(postgres: PostgresServer) -> AsyncIterator[Proxy]:
    async with Proxy(postgres.port) as proxy:
        yield proxy


@pytest.fixture
def distant(postgres: PostgresServer, proxy: Proxy) -> Iterator[Database]:
    """The database by way of the proxy."""
    with _closing(Database(proxy.dsn(postgres.dsn), connections=CONNECTIONS)) as database:
        yield database


@contextlib.contextmanager
def _closing(database: Database) -> Iterator[Database]:
    try:
        yield database
    finally:
        database.close()


async def _works(database: Database, postgres: PostgresServer) -> bool:
    async with database.transaction() as connection:
        mark_id = await mark(connection)
    return await asyncio.to_thread(is_marked, postgres, mark_id)


async def _begin(database: Database) -> None:
    async with database.transaction() as connection:
        # BEGIN is sent along with it.
        await fetch(connection, "SELECT 1")


async def _warm_up(database: Database) -> None:
    """Opens all connections of the pool, and leaves them idle."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(CONNECTIONS):
            await stack.enter_async_context(database.transaction())


class TestServerSideCancels:
    """Danger 1: the driver raises CancelledError for them, though nobody cancelled the task."""

    async def test_statement_timeout_is_busy(self, database: Database) -> None:
        async with failing(database, DatabaseBusy) as connection:
            await fetch(connection, "SET LOCAL statement_timeout = '50ms'")
            await fetch(connection, "SELECT pg_sleep(10)")

    async def test_a_cancel_by_the_operator_is_busy(self, database: Database, postgres: PostgresServer) -> None:
        async def sleep() -> None:
            async with database.transaction() as connection:
                await fetch(connection, "SELECT pg_sleep(10)")

        sleeper = asyncio.create_task(sleep())
        await eventually(lambda: _sleeps(postgres), 1, "the statement runs")
        postgres.cancel_backends()

        with pytest.raises(DatabaseBusy):
            await sleeper

    async def test_nothing_of_the_transaction_is_saved_and_the_next_one_works(
        self, database: Database, postgres: PostgresServer
    ) -> None:
        mark_id = ""
        async with failing(database, DatabaseBusy) as connection:
            mark_id = await mark(connection)
            await fetch(connection, "SET LOCAL statement_timeout = '50ms'")
            await fetch(connection, "SELECT pg_sleep(10)")

        assert not is_marked(postgres, mark_id)
        assert await _works(database, postgres)

    async def test_a_cancel_within_a_task_that_was_cancelled_before_is_busy(self, database: Database) -> None:
        """A cancellation that was survived earlier does not count as one now."""

        async def survive_and_sleep() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            async with database.transaction() as connection:
                await fetch(connection, "SET LOCAL statement_timeout = '50ms'")
                await fetch(connection, "SELECT pg_sleep(10)")

        task = asyncio.create_task(survive_and_sleep())
        await asyncio.sleep(0)
        task.cancel()

        with pytest.raises(DatabaseBusy):
            await task


class TestRealCancellation:
    """The other side of danger 1: who cancels a task gets CancelledError, and nobody gets its connection dirty."""

    async def test_it_stays_cancelled_error(self, database: Database, postgres: PostgresServer) -> None:
        task = await _task_that_sleeps(database, postgres)
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task

    async def test_the_connection_is_not_used_again(self, database: Database, postgres: PostgresServer) -> None:
        mark_ids: list[str] = []
        task = await _task_that_sleeps(database, postgres, mark_ids)
        cancelled = await asyncio.to_thread(postgres.backends)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        async with database.transaction() as connection:
            assert await backend_of(connection) not in cancelled
        await eventually(lambda: not set(cancelled) & set(postgres.backends()), 5, "its backend is gone")
        assert not is_marked(postgres, mark_ids[0])

    async def test_it_gives_its_place_in_the_pool_back(self, database: Database, postgres: PostgresServer) -> None:
        for _ in range(2 * CONNECTIONS):
            task = await _task_that_sleeps(database, postgres)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        assert await _works(database, postgres)

    async def test_while_waiting_for_a_connection(self, postgres: PostgresServer) -> None:
        with _closing(Database(postgres.dsn, connections=1)) as database:
            async with database.transaction():
                waiter = asyncio.create_task(_works(database, postgres))
                await asyncio.sleep(0)
                waiter.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiter
            assert await _works(database, postgres)

    async def test_a_deadline_of_the_callers_own_is_theirs(self, database: Database) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), database.transaction() as connection:
                await fetch(connection, "SELECT pg_sleep(10)")


def _sleeps(postgres: PostgresServer) -> bool:
    return bool(postgres.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))


async def _task_that_sleeps(
    database: Database, postgres: PostgresServer, mark_ids: list[str] | None = None
) -> "asyncio.Task[None]":
    async def sleep() -> None:
        async with database.transaction() as connection:
            mark_id = await mark(connection)
            if mark_ids is not None:
                mark_ids.append(mark_id)
            await fetch(connection, "SELECT pg_sleep(10)")

    before = await asyncio.to_thread(_sleepers, postgres)
    task = asyncio.create_task(sleep())
    await eventually(lambda: bool(_sleepers(postgres) - before), 1, "the statement runs")
    return task


def _sleepers(postgres: PostgresServer) -> set[int]:
    return {pid for (pid,) in postgres.execute("SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'")}


class TestSwallowedErrors:
    """Danger 2: PostgreSQL answers COMMIT with ROLLBACK, which is no error to the driver."""

    async def test_commit_after_a_swallowed_error_raises(self, database: Database, postgres: PostgresServer) -> None:
        mark_id = ""
        async with failing(database, errors.InternalError) as connection:
            mark_id = await mark(connection)
            with contextlib.suppress(Exception):
                await fetch(connection, "SELECT 1 / 0")

        assert not is_marked(postgres, mark_id)
        assert await _works(database, postgres)


class TestNesting:
    """Danger 3: a driver's inner rollback ends the outer transaction. Here each has a connection of its own."""

    async def test_an_inner_failure_leaves_the_outer_transaction_whole(
        self, database: Database, postgres: PostgresServer
    ) -> None:
        inner = ""
        async with database.transaction() as connection:
            before = await mark(connection)
            with contextlib.suppress(StatementRejected):
                async with database.transaction() as other:
                    inner = await mark(other)
                    await fetch(other, "SELECT 1 / 0")
            after = await mark(connection)

        assert (is_marked(postgres, before), is_marked(postgres, inner), is_marked(postgres, after)) == (
            True,
            False,
            True,
        )

    async def test_what_the_body_raises_passes_unchanged_and_rolls_back(
        self, database: Database, postgres: PostgresServer
    ) -> None:
        mark_ids: list[str] = []

        async def fail() -> None:
            async with database.transaction() as connection:
                mark_ids.append(await mark(connection))
                raise KeyError(mark_ids[0])

        with pytest.raises(KeyError):
            await fail()
        assert not is_marked(postgres, mark_ids[0])


class TestConnectsThatHang:
    """Dangers 4 and 5: a frozen postmaster lets connects hang for ever, whatever connect_timeout says."""

    async def test_they_fail_within_the_deadline(self, postgres: PostgresServer) -> None:
        dsn = make_dsn(postgres.dsn, connect_timeout=60)
        postgres.freeze_postmaster()
        with _closing(Database(dsn, connections=CONNECTIONS)) as database:
            watch = Stopwatch()
            with pytest.raises(DatabaseUnavailable):
                await _begin(database)
            assert watch.seconds < CONNECT_SECONDS + SLACK_SECONDS

    async def test_they_keep_nobody_else_waiting(self, database: Database, postgres: PostgresServer) -> None:
        """Those that have a connection finish, give it back, and others get it, while a connect hangs."""
        async with database.transaction() as connection:
            await fetch(connection, "SELECT 1")
            postgres.freeze_postmaster()
            hanging = [asyncio.create_task(_works(database, postgres)) for _ in range(CONNECTIONS - 1)]
            await asyncio.sleep(0)
        watch = Stopwatch()
        for _ in range(20):
            async with database.transaction() as connection:
                await fetch(connection, "SELECT 1")
        assert watch.seconds < AT_ONCE_SECONDS
        assert not any(task.done() for task in hanging)
        outcomes = await asyncio.gather(*hanging, return_exceptions=True)
        assert all(isinstance(outcome, DatabaseUnavailable) for outcome in outcomes), outcomes

    async def test_they_leave_the_pool_as_large_as_it_was(self, database: Database, postgres: PostgresServer) -> None:
        postgres.freeze_postmaster()
        await asyncio.gather(*(_works(database, postgres) for _ in range(CONNECTIONS)), return_exceptions=True)
        postgres.thaw()

        await _warm_up(database)

    async def test_a_queue_before_the_pool_is_overload_and_not_an_outage(self, database: Database) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(CONNECTIONS):
                await stack.enter_async_context(database.transaction(deadline_seconds=10))
            watch = Stopwatch()
            with pytest.raises(Overloaded):
                await _begin(database)
            assert watch.seconds < QUEUE_SECONDS + SLACK_SECONDS


class TestSeveralAddresses:
    """Danger 6: the event loop loses a socket that changes during connect. Each address is tried on its own."""

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1,127.0.0.1", "localhost,127.0.0.1"])
    async def test_names_and_lists_work(self, postgres: PostgresServer, host: str) -> None:
        with _closing(Database(make_dsn(postgres.dsn, host=host), connections=1)) as database:
            assert await _works(database, postgres)

    @pytest.mark.parametrize("sslmode", ["disable", "prefer", "allow"])
    async def test_sslmodes_that_fall_back_work(self, postgres: PostgresServer, sslmode: str) -> None:
        with _closing(Database(make_dsn(postgres.dsn, sslmode=sslmode), connections=1)) as database:
            assert await _works(database, postgres)

    async def test_a_first_host_that_refuses_costs_no_time(self, postgres: PostgresServer) -> None:
        dsn = make_dsn(postgres.dsn, host="127.0.0.1,127.0.0.1", port=f"{free_port()},{postgres.port}")
        with _closing(Database(dsn, connections=1)) as database:
            watch = Stopwatch()
            assert await _works(database, postgres)
            assert watch.seconds < AT_ONCE_SECONDS + SLACK_SECONDS

    async def test_a_first_host_that_hangs_does_not_hide_the_second(
        self, postgres: PostgresServer, proxy: Proxy
    ) -> None:
        proxy.black_hole()
        dsn = make_dsn(postgres.dsn, host="127.0.0.1,127.0.0.1", port=f"{proxy.port},{postgres.port}")
        with _closing(Database(dsn, connections=1)) as database:
            assert await _works(database, postgres)

    async def test_a_host_that_is_read_only_is_passed_over(self, postgres: PostgresServer) -> None:
        other = PostgresServer()
        try:
            other.start()
            other.execute("ALTER ROLE aiopypay PASSWORD %s", _password(postgres))
            other.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            other.execute("SELECT pg_reload_conf()")
            dsn = make_dsn(
                postgres.dsn, dbname="aiopypay", host="127.0.0.1,127.0.0.1", port=f"{other.port},{postgres.port}"
            )
            with _closing(Database(dsn, connections=1)) as database:
                async with database.transaction() as connection:
                    assert (await fetch(connection, "SELECT inet_server_port()"))[0][0] == postgres.port
        finally:
            other.remove()

    async def test_a_single_host_that_is_read_only_is_unavailable(
        self, postgres: PostgresServer, database: Database
    ) -> None:
        async with failing(database, DatabaseUnavailable) as connection:
            await fetch(connection, "SET LOCAL transaction_read_only = on")
            await mark(connection)

    async def test_a_name_that_does_not_exist_is_unavailable(self, postgres: PostgresServer) -> None:
        with _closing(Database(make_dsn(postgres.dsn, host="nowhere.invalid"), connections=1)) as database:
            with pytest.raises(DatabaseUnavailable):
                await _works(database, postgres)

    async def test_hostaddr_is_taken_as_it_is(self, postgres: PostgresServer) -> None:
        with _closing(Database(make_dsn(postgres.dsn, host="a-name", hostaddr="127.0.0.1"), connections=1)) as database:
            assert await _works(database, postgres)


def _password(postgres: PostgresServer) -> str:
    return str(parse_dsn(postgres.dsn)["password"])


class TestLateCommits:
    """Danger 7: what timed out may still land, long after the client gave up."""

    async def test_a_commit_that_a_frozen_server_executes_late_is_in_doubt(
        self, postgres: PostgresServer, proxy: Proxy, distant: Database
    ) -> None:
        await _warm_up(distant)

        async def freeze() -> None:
            proxy.before_commit = None
            await asyncio.to_thread(postgres.freeze)

        proxy.before_commit = freeze
        mark_id, watch = "", Stopwatch()
        try:
            async with failing(distant, CommitInDoubt) as connection:
                mark_id = await mark(connection)
            assert watch.seconds < DEADLINE_SECONDS + SLACK_SECONDS
        finally:
            postgres.thaw()

        await eventually(lambda: is_marked(postgres, mark_id), 5, "the commit lands")

    async def test_a_task_that_is_cancelled_during_commit_may_have_committed(
        self, postgres: PostgresServer, proxy: Proxy, distant: Database
    ) -> None:
        mark_ids: list[str] = []

        async def write() -> None:
            async with distant.transaction() as connection:
                mark_ids.append(await mark(connection))

        proxy.at_commit(Cut.HOLD_COMMIT)
        task = asyncio.create_task(write())
        await eventually(lambda: proxy.holds == 1, 5, "COMMIT is on its way")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not is_marked(postgres, mark_ids[0])
        proxy.release()

        await eventually(lambda: is_marked(postgres, mark_ids[0]), 5, "the commit lands")
        assert await _works(distant, postgres)


class TestLostCommits:
    """Lost during COMMIT: in doubt, whether it was executed or not."""

    async def test_cut_before_commit_reaches_the_server(
        self, postgres: PostgresServer, proxy: Proxy, distant: Database
    ) -> None:
        mark_id = await self._in_doubt(proxy, distant, Cut.BEFORE_COMMIT)

        await eventually(lambda: _is_idle(postgres), 5, "the server has noticed")
        assert not is_marked(postgres, mark_id)

    async def test_cut_after_the_server_committed(
        self, postgres: PostgresServer, proxy: Proxy, distant: Database
    ) -> None:
        mark_id = await self._in_doubt(proxy, distant, Cut.AFTER_COMMIT)

        assert is_marked(postgres, mark_id)

    async def _in_doubt(self, proxy: Proxy, distant: Database, cut: Cut) -> str:
        mark_id, watch = "", Stopwatch()
        proxy.at_commit(cut)
        async with failing(distant, CommitInDoubt) as connection:
            mark_id = await mark(connection)
        assert watch.seconds < AT_ONCE_SECONDS + SLACK_SECONDS
        return mark_id

    async def test_a_black_hole_at_commit(self, proxy: Proxy, distant: Database) -> None:
        async def fall_in() -> None:
            proxy.black_hole()

        proxy.before_commit = fall_in
        watch = Stopwatch()
        async with failing(distant, CommitInDoubt) as connection:
            await mark(connection)
        assert watch.seconds < DEADLINE_SECONDS + SLACK_SECONDS

    async def test_a_backend_that_is_ended_during_commit(
        self, postgres: PostgresServer, proxy: Proxy, distant: Database
    ) -> None:
        """It has time to say why (57P01), but not whether."""

        async def end() -> None:
            await asyncio.to_thread(postgres.terminate_backends)

        proxy.before_commit = end
        async with failing(distant, CommitInDoubt) as connection:
            await mark(connection)

    async def test_a_constraint_that_is_checked_at_commit_is_not_in_doubt(
        self, postgres: PostgresServer, database: Database
    ) -> None:
        postgres.execute(
            "CREATE TABLE IF NOT EXISTS deferred (id INT UNIQUE DEFERRABLE INITIALLY DEFERRED);"
            "GRANT ALL ON deferred TO aiopypay"
        )
        async with failing(database, errors.DuplicateOrder, sqlstate="23505") as connection:
            await fetch(connection, "INSERT INTO deferred VALUES (1), (1)")


def _is_idle(postgres: PostgresServer) -> bool:
    sql = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'aiopypay' AND state <> 'idle'"
    return not postgres.execute(sql)


class TestKindsOfFailure:
    """Danger 9: outages and conflicts come as one class of the driver's; phase and SQLSTATE tell them apart."""

    async def test_refused_is_unavailable_at_once(self, postgres: PostgresServer) -> None:
        postgres.stop()
        await self._is_unavailable_at_once(postgres)

    async def test_shutting_down_is_unavailable_at_once(self, postgres: PostgresServer, database: Database) -> None:
        async with database.transaction():
            # A smart shutdown waits for this transaction, and lets nobody else in.
            postgres.stop_smart()
            await self._is_unavailable_at_once(postgres)
        postgres.stop()

    async def test_starting_up_is_unavailable_at_once(self, postgres: PostgresServer) -> None:
        with postgres.starting_up():
            await self._is_unavailable_at_once(postgres)

    async def test_too_many_connections_is_unavailable_at_once(self, postgres: PostgresServer) -> None:
        postgres.execute("ALTER ROLE aiopypay CONNECTION LIMIT 0")
        try:
            await self._is_unavailable_at_once(postgres)
        finally:
            postgres.execute("ALTER ROLE aiopypay CONNECTION LIMIT -1")

    async def _is_unavailable_at_once(self, postgres: PostgresServer) -> None:
        with _closing(Database(postgres.dsn, connections=1)) as fresh:
            for _ in range(10):
                watch = Stopwatch()
                with pytest.raises(DatabaseUnavailable):
                    await _begin(fresh)
                assert watch.seconds < AT_ONCE_SECONDS

    async def test_a_backend_that_is_ended_is_unavailable(self, postgres: PostgresServer, database: Database) -> None:
        async with failing(database, DatabaseUnavailable) as connection:
            await fetch(connection, "SELECT 1")
            await asyncio.to_thread(postgres.terminate_backends)
            await fetch(connection, "SELECT 1")
        assert await _works(database, postgres)

    @pytest.mark.parametrize("end", ["kill", "fast", "immediate"])
    async def test_lost_in_a_statement_is_unavailable_at_once(
        self, postgres: PostgresServer, database: Database, end: Literal["kill", "fast", "immediate"]
    ) -> None:
        mark_id, watch = "", Stopwatch()
        async with failing(database, DatabaseUnavailable, 20) as connection:
            mark_id = await mark(connection)
            sleeping = asyncio.create_task(fetch(connection, "SET LOCAL statement_timeout = 0; SELECT pg_sleep(30)"))
            await eventually(lambda: _sleeps(postgres), 2, "the statement runs")
            await asyncio.to_thread(postgres.kill if end == "kill" else lambda: postgres.stop(end))
            watch = Stopwatch()
            await sleeping
        assert watch.seconds < AT_ONCE_SECONDS
        postgres.start()
        assert not is_marked(postgres, mark_id)
        assert await _works(database, postgres)

    async def test_a_slow_server_is_not_one_that_is_away(self, postgres: PostgresServer, database: Database) -> None:
        """Each statement has its deadline; one that is too long is cancelled by the server, which speaks first."""
        async with database.transaction(by_statement=True) as connection:
            for _ in range(3):
                await fetch(connection, f"SELECT pg_sleep({DEADLINE_SECONDS / 2})")
        async with failing(database, DatabaseUnavailable) as connection:
            for _ in range(3):
                await fetch(connection, f"SELECT pg_sleep({DEADLINE_SECONDS / 2})")
        with pytest.raises(DatabaseBusy):
            async with database.transaction(by_statement=True) as connection:
                await fetch(connection, "SELECT pg_sleep(30)")
        assert await _works(database, postgres)

    async def test_a_frozen_server_is_unavailable_within_the_deadline(
        self, postgres: PostgresServer, database: Database
    ) -> None:
        watch = Stopwatch()
        async with failing(database, DatabaseUnavailable) as connection:
            postgres.freeze()
            watch = Stopwatch()
            await fetch(connection, "SELECT 1")
        assert watch.seconds < DEADLINE_SECONDS + SLACK_SECONDS

    @pytest.mark.parametrize("direction", ["to_server", "to_client"])
    async def test_a_black_hole_is_unavailable_within_the_deadline(
        self, proxy: Proxy, distant: Database, direction: Direction
    ) -> None:
        await _warm_up(distant)
        proxy.black_hole(direction)
        watch = Stopwatch()
        with pytest.raises(DatabaseUnavailable):
            await _begin(distant)
        assert watch.seconds < DEADLINE_SECONDS + SLACK_SECONDS

    @pytest.mark.parametrize("fault", ["reset", "half_close"])
    async def test_a_connection_cut_by_the_network_is_unavailable_at_once(
        self, proxy: Proxy, distant: Database, fault: str
    ) -> None:
        watch = Stopwatch()
        async with failing(distant, DatabaseUnavailable) as connection:
            watch = Stopwatch()
            getattr(proxy, fault)()
            await fetch(connection, "SELECT 1")
        assert watch.seconds < AT_ONCE_SECONDS

    async def test_lock_timeout_is_busy(self, postgres: PostgresServer, database: Database) -> None:
        with postgres.connected() as other, other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(LOCK_MARKS)
            async with failing(database, DatabaseBusy) as connection:
                await mark(connection)
        assert await _works(database, postgres)

    async def test_deadlock_is_busy_for_one_of_the_two(self, postgres: PostgresServer, database: Database) -> None:
        postgres.execute(f"ALTER DATABASE {postgres.database} SET deadlock_timeout = '20ms'")
        first, second = asyncio.Event(), asyncio.Event()

        async def lock(mine: int, then: int, reached: asyncio.Event, other: asyncio.Event) -> None:
            async with database.transaction() as connection:
                await fetch(connection, "SELECT pg_advisory_xact_lock(%(id)s)", {"id": mine})
                reached.set()
                await other.wait()
                await fetch(connection, "SELECT pg_advisory_xact_lock(%(id)s)", {"id": then})

        outcomes = await asyncio.gather(lock(1, 2, first, second), lock(2, 1, second, first), return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["DatabaseBusy", "NoneType"]

    async def test_serialisation_failure_is_busy(self, database: Database) -> None:
        async with database.transaction() as connection:
            await mark(connection)
        async with failing(database, DatabaseBusy) as connection:
            await fetch(connection, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            await fetch(connection, "SELECT count(*) FROM marks")
            async with database.transaction() as other:
                await fetch(other, "UPDATE marks SET id = id")
            await fetch(connection, "UPDATE marks SET id = id")

    async def test_a_rejected_statement_is_neither(self, database: Database, postgres: PostgresServer) -> None:
        async with failing(database, StatementRejected, sqlstate="22012") as connection:
            await fetch(connection, "SELECT 1 / 0")
        assert await _works(database, postgres)

    async def test_a_duplicate_is_told_apart(self, database: Database) -> None:
        async with failing(database, errors.DuplicateOrder) as connection:
            mark_id = await mark(connection)
            await fetch(connection, "INSERT INTO marks (id) VALUES (%(id)s)", {"id": mark_id})


class TestComingAndGoing:
    """Danger 8, and what a restart leaves behind."""

    async def test_the_server_may_be_away_when_the_edge_is_made(self, postgres: PostgresServer) -> None:
        postgres.stop()
        with _closing(Database(postgres.dsn, connections=CONNECTIONS)) as database:
            with pytest.raises(DatabaseUnavailable):
                await _works(database, postgres)
            postgres.start()
            assert await _works(database, postgres)

    @pytest.mark.parametrize("end", ["kill", "stop"])
    async def test_stale_connections_are_noticed_after_a_restart(
        self, postgres: PostgresServer, database: Database, end: str
    ) -> None:
        await _warm_up(database)
        await asyncio.to_thread(getattr(postgres, end))
        await asyncio.to_thread(postgres.start)

        assert all([await _works(database, postgres) for _ in range(CONNECTIONS)])

    async def test_stale_connections_are_noticed_even_if_the_event_loop_slept_through_it(
        self, postgres: PostgresServer, database: Database
    ) -> None:
        await _warm_up(database)
        # Both block the event loop.
        postgres.stop()
        postgres.start()

        assert all([await _works(database, postgres) for _ in range(CONNECTIONS)])

    async def test_an_abandoned_transaction_does_not_hold_its_locks_for_long(
        self, postgres: PostgresServer, proxy: Proxy, distant: Database, database: Database
    ) -> None:
        """A client behind a black hole cannot say goodbye: the server's own timeout ends it."""
        async with failing(distant, DatabaseUnavailable) as connection:
            await fetch(connection, LOCK_MARKS)
            proxy.black_hole()
            await fetch(connection, "SELECT 1")

        async def free() -> bool:
            try:
                return await _works(database, postgres)
            except DatabaseBusy:
                return False

        await eventually(free, 5, "the locks are free")


class TestOrdersUnderDoubt:
    """An order in doubt is kept in the journal under its id: whatever became of the first attempt, it counts once."""

    @pytest.fixture
    def accounts(self, empty_postgres: PostgresServer) -> Accounts:
        """A user and two accounts of theirs, of which the first holds 100."""
        migrations.apply(empty_postgres.owner_dsn, SERVICE)
        ((user_id,),) = empty_postgres.execute(
            "INSERT INTO users (username, full_name, password_hash) VALUES ('anna', 'Anna', '!') RETURNING id"
        )
        (payer,), (payee,) = empty_postgres.execute(
            "INSERT INTO accounts (user_id, currency_id, amount) VALUES (%s, 'USD', 100), (%s, 'USD', 0) RETURNING id",
            user_id,
            user_id,
        )
        return user_id, payer, payee

    @pytest.fixture
    async def distant_node(
        self, empty_postgres: PostgresServer, accounts: Accounts, proxy: Proxy
    ) -> AsyncIterator[EdgeNode]:
        """A node that reaches the database by way of the proxy, and knows the accounts."""
        async with running_node(proxy.dsn(empty_postgres.dsn)) as node:
            await eventually(lambda: node.stand_in.deputy.filled, 5, "the node knows the accounts")
            yield node

    @pytest.mark.parametrize("cut", [Cut.BEFORE_COMMIT, Cut.AFTER_COMMIT], ids=lambda cut: cut.name)
    async def test_a_commit_that_is_cut(
        self, empty_postgres: PostgresServer, proxy: Proxy, distant_node: EdgeNode, accounts: Accounts, cut: Cut
    ) -> None:
        order = self._order(accounts)
        proxy.at_commit(cut)

        entry = await distant_node.group_commit.post(order)

        assert isinstance(entry, Entry)
        assert (entry.in_doubt, entry.balance) == (True, Decimal(40))
        await self._is_booked_once(empty_postgres, distant_node, accounts)

    async def test_a_commit_that_lands_while_the_retry_waits_for_its_locks(
        self, empty_postgres: PostgresServer, proxy: Proxy, distant_node: EdgeNode, accounts: Accounts
    ) -> None:
        """The retry looks the id up in a statement that starts when the locks are held; earlier would be too early."""
        order = self._order(accounts)
        proxy.at_commit(Cut.HOLD_COMMIT)
        first = asyncio.create_task(distant_node.group_commit.post(order))
        await eventually(lambda: proxy.holds == 1, 5, "the first attempt's COMMIT is on its way")
        async with running_node(empty_postgres.dsn) as another:
            retry = asyncio.create_task(another.group_commit.post(order))
            await eventually(empty_postgres.waits_for_lock, 2, "the retry waits for the locks of the first attempt")
            proxy.release()
            original, repeated = await asyncio.gather(first, retry)

        assert isinstance(original, OrderRecord)
        assert isinstance(repeated, OrderRecord)
        assert original.transfers == repeated.transfers
        assert self._balances(empty_postgres, accounts) == [40, 60]

    async def test_a_commit_that_a_frozen_server_executes_late(
        self, empty_postgres: PostgresServer, proxy: Proxy, distant_node: EdgeNode, accounts: Accounts
    ) -> None:
        order = self._order(accounts)

        async def freeze() -> None:
            proxy.before_commit = None
            await asyncio.to_thread(empty_postgres.freeze)

        proxy.before_commit = freeze
        try:
            entry = await distant_node.group_commit.post(order)
            assert isinstance(entry, Entry)
            assert entry.in_doubt
            assert await distant_node.group_commit.post(order) == entry
        finally:
            empty_postgres.thaw()

        await self._is_booked_once(empty_postgres, distant_node, accounts)

    def _order(self, accounts: Accounts) -> TransferOrder:
        user_id, payer, payee = accounts
        return a_transfer("key", "60", user_id=user_id, payer=payer, payee=payee)

    async def _is_booked_once(self, postgres: PostgresServer, node: EdgeNode, accounts: Accounts) -> None:
        await eventually(lambda: node.switch.is_up, 10, "the node is online again")
        record = await node.group_commit.post(self._order(accounts))
        assert isinstance(record, OrderRecord)
        assert (record.status, record.balance) == ("posted", Decimal(40))
        assert self._balances(postgres, accounts) == [40, 60]

    def _balances(self, postgres: PostgresServer, accounts: Accounts) -> list[object]:
        rows = postgres.execute("SELECT amount FROM accounts WHERE id = ANY(%s) ORDER BY id", list(accounts[1:]))
        return [amount for (amount,) in rows]
