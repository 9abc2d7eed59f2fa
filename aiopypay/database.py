"""The edge to aiopg.sa: visible transactions, deadlines on everything, failures translated by phase and code.

Nothing of psycopg2 leaves this module. What does:

- DatabaseUnavailable: could not connect, or the connection was lost, or the deadline passed, before COMMIT;
- CommitInDoubt: the same, while the answer to COMMIT was awaited;
- DatabaseBusy: deadlock, serialisation failure, lock timeout, cancelled statement: nothing booked, try again;
- StatementRejected (DuplicateOrder for a unique violation): anything else that PostgreSQL refused.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import aiopg
import aiopg.sa
import psycopg2
from aiopg.sa.engine import get_dialect
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from aiopypay import driver, errors
from aiopypay.addresses import single_address_dsns
from aiopypay.pool import QUEUE_SECONDS, Pool
from aiopypay.statements import Connection
from aiopypay.translation import (
    UNAVAILABLE_DETAIL,
    Phase,
    ServerCancel,
    is_unavailable,
    one_line,
    server_cancels_told_apart,
    translate,
)

# From connecting to the answer to COMMIT. With it, a frozen server is noticed within 2 s.
DEADLINE_SECONDS = 1.5
CONNECT_SECONDS = 1.0
# For those who met the deadline to say so.
NOTICE_SECONDS = 0.2


class Link(Protocol):
    """What all connections share: whether the database is to be used at all, and who is told when it is lost."""

    @property
    def is_up(self) -> bool:
        """False: no statement touches the database."""

    @property
    def epoch(self) -> int:
        """How often the database was lost so far."""

    def lost(self, reason: str, epoch: int) -> None:
        """Some statement of a transaction that began in this epoch met DatabaseUnavailable."""

    async def wait_until_down(self) -> None:
        """Returns once the database is not to be used."""


class Database:
    """Connections to one PostgreSQL, made when first needed: it may be away while the service starts."""

    def __init__(self, database_url: str, *, connections: int, link: Link | None = None) -> None:
        self._database_url = database_url
        self._pool = Pool(self._connect, connections)
        self._engine: aiopg.sa.Engine | None = None
        self._link = link

    @contextlib.asynccontextmanager
    async def transaction(self, deadline_seconds: float = DEADLINE_SECONDS) -> AsyncIterator[Connection]:
        """An explicit transaction: BEGIN with the first statement, COMMIT at the end, ROLLBACK where the body raises.

        Everything from connecting to the answer to COMMIT has one deadline. Never nest two on one connection.
        Raises what the module's head lists; what the body raises by itself passes unchanged.
        """
        async with self._edge(deadline_seconds) as attempt, self._acquired(begins=True) as connection:
            attempt.phase = "transaction"
            connection.connection.deadline = attempt.deadline
            async with _rolled_back_on_error(connection):
                yield connection
            if not connection.connection.begins_with_next:
                attempt.phase = "commit"
                await _commit(connection)

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """A connection for one statement that only reads, which PostgreSQL makes a transaction of its own.

        One round trip instead of three. Raises as `transaction` does, but never CommitInDoubt.
        """
        async with self._edge(DEADLINE_SECONDS) as attempt, self._acquired(begins=False) as connection:
            attempt.phase = "transaction"
            async with _rolled_back_on_error(connection):
                yield connection

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
        try:
            yield connection
        finally:
            # Given back without an await: nothing can hang or be cancelled between here and there.
            self._pool.release(raw)

    async def _connect(self) -> aiopg.Connection:
        """Returns a connection to the first address that accepts one. Raises what the last one raised.

        Each has its share of the time, so that one that hangs does not hide those behind it.
        """
        failure: Exception = OSError("the database URL names no address")
        async with asyncio.timeout(CONNECT_SECONDS):
            dsns = await single_address_dsns(self._database_url)
        for dsn in dsns:
            try:
                async with asyncio.timeout(CONNECT_SECONDS / len(dsns)):
                    return await driver.connect(dsn)
            except (psycopg2.OperationalError, TimeoutError) as error:
                failure = error
        raise failure

    @contextlib.asynccontextmanager
    async def _edge(self, deadline_seconds: float) -> AsyncIterator["_Attempt"]:
        """A turn to use a connection, a deadline for what is done in it, and the driver's failures as problems."""
        if self._link is not None and not self._link.is_up:
            raise errors.DatabaseUnavailable(UNAVAILABLE_DETAIL)
        attempt = _Attempt(0 if self._link is None else self._link.epoch)
        try:
            # The deadline begins with the turn: waiting behind others says nothing about the database.
            async with (
                self._pool.slot(),
                asyncio.timeout(deadline_seconds) as attempt.deadline,
                server_cancels_told_apart(),
            ):
                yield attempt
        except (psycopg2.Error, TimeoutError, OSError, ServerCancel) as error:
            raise self._translated(error, attempt) from error
        except errors.Overloaded:
            await self._raise_if_lost()
            raise

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
