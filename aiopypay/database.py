"""The edge to aiopg.sa: visible transactions, deadlines on everything, failures translated by phase and code.

Nothing of psycopg2 leaves this module. What does:

- DatabaseUnavailable: could not connect, or the connection was lost, or the deadline passed, before COMMIT
  (DatabaseUnfit: a database answered that must not be used);
- CommitInDoubt: the same, while the answer to COMMIT was awaited;
- DatabaseBusy: deadlock, serialisation failure, lock timeout, cancelled statement: nothing booked, try again;
- StatementRejected (DuplicateOrder for a unique violation): anything else that PostgreSQL refused.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiopg.sa
import psycopg2
from aiopg.sa.engine import get_dialect
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from aiopypay import driver, errors
from aiopypay.pool import QUEUE_SECONDS, Pool
from aiopypay.servers import Link, Servers
from aiopypay.statements import Connection
from aiopypay.translation import (
    IN_DOUBT_DETAIL,
    UNAVAILABLE_DETAIL,
    Phase,
    ServerCancel,
    SessionUnfit,
    is_unavailable,
    one_line,
    server_cancels_told_apart,
    translate,
)

# From connecting to the answer to COMMIT. With it, a frozen server is noticed within 2 s.
DEADLINE_SECONDS = 1.5
# For those who met the deadline to say so.
NOTICE_SECONDS = 0.2


class Database:
    """Connections to one PostgreSQL, made when first needed: it may be away while the service starts.

    A connection made in an earlier epoch is never used again: its server may be one that was replaced. Without a link
    an epoch ends with `renew`.
    """

    def __init__(self, database_url: str, *, connections: int, link: Link | None = None) -> None:
        self._database_url = database_url
        self._servers = Servers(database_url, link)
        self._pool = Pool(self._servers.connect, connections, lambda: self._servers.epoch)
        self._engine: aiopg.sa.Engine | None = None
        self._link = link
        if link is not None:
            link.when_lost(self._pool.close_outdated)

    @contextlib.asynccontextmanager
    async def transaction(
        self, deadline_seconds: float = DEADLINE_SECONDS, *, by_statement: bool = False
    ) -> AsyncIterator[Connection]:
        """An explicit transaction: BEGIN with the first statement, COMMIT at the end, ROLLBACK where the body raises.

        Everything from connecting to the answer to COMMIT has one deadline; or, `by_statement`, each statement one of
        its own: a server that is slow is not taken for one that is away then, and a frozen one is noticed as soon.
        Never nest two on one connection. Raises what the module's head lists; what the body raises by itself passes
        unchanged.
        """
        async with self._edge(deadline_seconds) as attempt, self._acquired(begins=True) as connection:
            attempt.phase = "transaction"
            connection.connection.deadline = attempt.deadline
            connection.connection.statement_seconds = deadline_seconds if by_statement else None
            async with _rolled_back_on_error(connection):
                yield connection
            if not connection.connection.begins_with_next:
                await self._commit(connection, attempt)

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """A connection for one statement that only reads, which PostgreSQL makes a transaction of its own.

        One round trip instead of three. Raises as `transaction` does, but never CommitInDoubt.
        """
        async with self._edge(DEADLINE_SECONDS) as attempt, self._acquired(begins=False) as connection:
            attempt.phase = "transaction"
            async with _rolled_back_on_error(connection):
                yield connection

    @property
    def server(self) -> str | None:
        """The connection string of the server that all connections lead to, None before the first."""
        return self._servers.server

    def renew(self, first: str | None = None) -> None:
        """Of a database without a link: no connection made so far is used again, and any server may be the next.

        `first` is tried first. Without it, the server used so far is tried last.
        """
        self._servers.renew(first)
        self._pool.close_outdated()

    def close(self) -> None:
        """Closes every connection."""
        self._pool.terminate()

    @contextlib.asynccontextmanager
    async def _acquired(self, *, begins: bool) -> AsyncIterator[Connection]:
        if self._engine is None:
            self._engine = aiopg.sa.Engine(get_dialect(), self._pool, self._database_url)  # type: ignore[no-untyped-call]
        connection = await self._engine.acquire()  # type: ignore[no-untyped-call]
        raw: driver.Connection = connection.connection
        raw.begins_with_next = begins
        raw.statement_seconds = None
        try:
            yield connection
        finally:
            # Given back without an await: nothing can hang or be cancelled between here and there.
            self._pool.release(raw)

    @contextlib.asynccontextmanager
    async def _edge(self, deadline_seconds: float) -> AsyncIterator["_Attempt"]:
        """A turn to use a connection, a deadline for what is done in it, and the driver's failures as problems."""
        self._check_up()
        attempt = _Attempt(self._servers.epoch)
        try:
            # The deadline begins with the turn: waiting behind others says nothing about the database.
            async with (
                self._pool.slot(),
                asyncio.timeout(deadline_seconds) as attempt.deadline,
                server_cancels_told_apart(),
            ):
                # Lost, or lost and found, while this one waited.
                self._check_up()
                attempt.epoch = self._servers.epoch
                yield attempt
        except (psycopg2.Error, TimeoutError, OSError, ServerCancel, SessionUnfit) as error:
            raise self._translated(error, attempt) from error
        except errors.Overloaded:
            await self._raise_if_lost()
            raise

    def _check_up(self) -> None:
        if self._link is not None and not self._link.is_up:
            raise errors.DatabaseUnavailable(UNAVAILABLE_DETAIL)

    async def _commit(self, connection: Connection, attempt: "_Attempt") -> None:
        """Commits where the database was not lost meanwhile: what this server says may count no more."""
        if attempt.epoch != self._servers.epoch:
            connection.connection.close()
            raise errors.DatabaseUnavailable(UNAVAILABLE_DETAIL)
        attempt.phase = "commit"
        await _commit(connection)
        if attempt.epoch != self._servers.epoch:
            raise errors.CommitInDoubt(IN_DOUBT_DETAIL)

    async def _raise_if_lost(self) -> None:
        """Tells a pool that is full because the database hangs from one that is busy: those before us find out soon."""
        if self._link is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DEADLINE_SECONDS - QUEUE_SECONDS + NOTICE_SECONDS):
                    await self._link.wait_until_down()
                    raise errors.DatabaseUnavailable(UNAVAILABLE_DETAIL)

    def _translated(self, error: BaseException, attempt: "_Attempt") -> errors.Problem:
        problem = translate(error, attempt.phase)
        if self._link is not None and isinstance(problem, errors.DatabaseUnavailable):
            self._link.lost(f"{attempt.phase}: {one_line(error)}", attempt.epoch)
        return problem


async def check_fitness(database_url: str) -> None:
    """Raises StartError where a database answers that must not be used. One that does not answer is not judged."""
    database = Database(database_url, connections=1)
    try:
        async with database.reading():
            pass
    except errors.DatabaseUnfit as unfit:
        raise errors.StartError(unfit.reason) from unfit
    except errors.Problem:
        # Whoever needs it will say so.
        return
    finally:
        database.close()


@dataclass(slots=True)
class _Attempt:
    """How often the database had been lost when it began, and how far it has come."""

    epoch: int
    phase: Phase = "connect"
    deadline: asyncio.Timeout | None = None


@contextlib.asynccontextmanager
async def _rolled_back_on_error(connection: Connection) -> AsyncIterator[None]:
    try:
        yield
    except BaseException as error:
        await _roll_back(connection, error)
        raise


async def _roll_back(connection: Connection, error: BaseException) -> None:
    """Ends the transaction: by ROLLBACK, or by closing a connection on which one cannot be sent."""
    raw = connection.connection
    # A session that is of no use (read-only, say) stays so: the next one is made anew.
    of_use = isinstance(error, Exception) and not is_unavailable(error, getattr(error, "pgcode", None))
    if of_use and not raw.closed:
        if raw.raw.get_transaction_status() == TRANSACTION_STATUS_IDLE:
            return
        with contextlib.suppress(psycopg2.Error):
            await _execute(connection, "ROLLBACK")
            return
    raw.close()


async def _commit(connection: Connection) -> None:
    try:
        tag = await _execute(connection, "COMMIT")
    except BaseException:
        connection.connection.close()
        raise
    if tag != "COMMIT":
        # A statement had failed and its error was swallowed: PostgreSQL answers COMMIT with ROLLBACK, without an error.
        raise errors.InternalError


async def _execute(connection: Connection, command: str) -> str:
    """Executes a command without a result; returns its tag."""
    cursor = await connection.connection.cursor()
    try:
        await cursor.execute(command)
        return str(cursor.statusmessage)
    finally:
        cursor.close()
