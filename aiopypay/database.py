"""The edge to aiopg.sa: visible transactions, deadlines on everything, failures translated by phase and code.

Nothing of psycopg2 leaves this module. What does:

- DatabaseUnavailable: could not connect, or the connection was lost, or the deadline passed, before COMMIT;
- CommitInDoubt: the same, while the answer to COMMIT was awaited;
- DatabaseBusy: deadlock, serialisation failure, lock timeout, cancelled statement: nothing booked, try again;
- StatementRejected (DuplicateOrder for a unique violation): anything else that PostgreSQL refused.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, Protocol

import aiopg
import aiopg.sa
import psycopg2
from aiopg.sa.engine import get_dialect

from aiopypay import errors
from aiopypay.addresses import single_address_dsns
from aiopypay.driver import connect
from aiopypay.pool import QUEUE_SECONDS, Pool

# From connecting to the answer to COMMIT. With it, a frozen server is noticed within 2 s.
DEADLINE_SECONDS = 1.5
CONNECT_SECONDS = 1.0
# For those who met the deadline to say so.
NOTICE_SECONDS = 0.2

Connection = aiopg.sa.SAConnection
Phase = Literal["connect", "transaction", "commit"]
Row = tuple[Any, ...]

logger = logging.getLogger(__name__)

# https://www.postgresql.org/docs/current/errcodes-appendix.html
BUSY = {"40001", "40P01", "55P03", "57014", "25P03"}
UNAVAILABLE_CLASSES = {"08", "53", "58"}
UNAVAILABLE = {"57P01", "57P02", "57P03", "57P05", "25006"}
UNIQUE_VIOLATION = "23505"

UNAVAILABLE_DETAIL = "The database is unavailable. Nothing was booked; try again."


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
        """An explicit transaction: BEGIN on entry, COMMIT at the end, ROLLBACK where the body raises.

        Everything from connecting to the answer to COMMIT has one deadline. Never nest two on one connection.
        Raises what the module's head lists; what the body raises by itself passes unchanged.
        """
        if self._link is not None and not self._link.is_up:
            raise errors.DatabaseUnavailable(UNAVAILABLE_DETAIL)
        epoch = 0 if self._link is None else self._link.epoch
        phase: Phase = "connect"

        def enter(next_phase: Phase) -> None:
            nonlocal phase
            phase = next_phase

        try:
            # The deadline begins with the turn: waiting behind others says nothing about the database.
            async with self._pool.slot(), asyncio.timeout(deadline_seconds), _server_cancels_told_apart():
                async with self._acquired() as connection:
                    enter("transaction")
                    await _rolled_back_on_error(connection, "BEGIN")
                    try:
                        yield connection
                    except BaseException as error:
                        await _roll_back(connection, error)
                        raise
                    enter("commit")
                    await _commit(connection)
        except (psycopg2.Error, TimeoutError, OSError, _ServerCancel) as error:
            raise self._translated(error, phase, epoch) from error
        except errors.Overloaded:
            await self._raise_if_lost()
            raise

    def close(self) -> None:
        """Closes every connection."""
        self._pool.terminate()

    @contextlib.asynccontextmanager
    async def _acquired(self) -> AsyncIterator[Connection]:
        if self._engine is None:
            self._engine = aiopg.sa.Engine(get_dialect(), self._pool, self._database_url)  # type: ignore[no-untyped-call]
        connection = await self._engine.acquire()  # type: ignore[no-untyped-call]
        raw = connection.connection
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
                    return await connect(dsn)
            except (psycopg2.OperationalError, TimeoutError) as error:
                failure = error
        raise failure

    async def _raise_if_lost(self) -> None:
        """Tells a pool that is full because the database hangs from one that is busy: those before us find out soon."""
        if self._link is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DEADLINE_SECONDS - QUEUE_SECONDS + NOTICE_SECONDS):
                    await self._link.wait_until_down()
                    raise errors.DatabaseUnavailable(UNAVAILABLE_DETAIL)

    def _translated(self, error: BaseException, phase: Phase, epoch: int) -> errors.Problem:
        problem = translate(error, phase)
        if self._link is not None and isinstance(problem, errors.DatabaseUnavailable):
            self._link.lost(f"{phase}: {_one_line(error)}", epoch)
        return problem


def translate(error: BaseException, phase: Phase) -> errors.Problem:
    """Returns the problem that a failure of the driver in this phase is, told by class and SQLSTATE, never by text."""
    code: str | None = getattr(error, "pgcode", None)
    if isinstance(error, _ServerCancel):
        code = "57014"
    if phase == "commit" and not _certainly_not_committed(code):
        return errors.CommitInDoubt("The database did not answer to COMMIT. Retry with the same Idempotency-Key.")
    if code in BUSY:
        return errors.DatabaseBusy("The database is busy. Nothing was booked; try again.")
    if _is_unavailable(error, code):
        return errors.DatabaseUnavailable(UNAVAILABLE_DETAIL)
    logger.error("PostgreSQL rejected a statement (%s): %s", code, _one_line(error))
    if code == UNIQUE_VIOLATION:
        return errors.DuplicateOrder(code)
    return errors.StatementRejected(code or "")


def _certainly_not_committed(code: str | None) -> bool:
    # Serialisation failures, constraints checked at COMMIT, and a transaction that had failed before. Any other
    # code at COMMIT may have come after the commit was durable (a backend that is shut down says 57P01).
    return code is not None and code[:2] in ("40", "23", "25") and code != "25P03"


def _is_unavailable(error: BaseException, code: str | None) -> bool:
    if code is not None:
        return code in UNAVAILABLE or code[:2] in UNAVAILABLE_CLASSES
    # Without a code the server said nothing: refused, lost, closed, hung. ProgrammingError and its like are ours.
    return isinstance(error, TimeoutError | OSError | psycopg2.OperationalError | psycopg2.InterfaceError) or (
        type(error) is psycopg2.DatabaseError
    )


class _ServerCancel(Exception):
    """The server cancelled the statement (statement_timeout, pg_cancel_backend)."""


@contextlib.asynccontextmanager
async def _server_cancels_told_apart() -> AsyncIterator[None]:
    """aiopg raises CancelledError when the *server* cancels a statement; nobody cancelled the task then."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except asyncio.CancelledError as error:
        if task is None or task.cancelling() > before:
            raise
        raise _ServerCancel from error


async def _rolled_back_on_error(connection: Connection, statement: str) -> None:
    try:
        await connection.execute(statement)  # type: ignore[no-untyped-call]
    except BaseException as error:
        await _roll_back(connection, error)
        raise


async def _roll_back(connection: Connection, error: BaseException) -> None:
    """Ends the transaction: by ROLLBACK, or by closing a connection on which one cannot be sent."""
    raw = connection.connection
    # A session that is of no use (read-only, say) stays so: the next one is made anew.
    of_use = isinstance(error, Exception) and not _is_unavailable(error, getattr(error, "pgcode", None))
    if of_use and not raw.closed:
        with contextlib.suppress(psycopg2.Error):
            await connection.execute("ROLLBACK")  # type: ignore[no-untyped-call]
            return
    raw.close()


async def _commit(connection: Connection) -> None:
    cursor = await connection.connection.cursor()
    try:
        await cursor.execute("COMMIT")
        tag = cursor.statusmessage
    except BaseException:
        connection.connection.close()
        raise
    finally:
        cursor.close()
    if tag != "COMMIT":
        # A statement had failed and its error was swallowed: PostgreSQL answers COMMIT with ROLLBACK, without an error.
        raise errors.InternalError


async def fetch(connection: Connection, sql: str, parameters: Mapping[str, Any] | None = None) -> list[Row]:
    """Executes one statement and returns its rows as plain tuples."""
    result = await connection.execute(sql, *([parameters] if parameters else []))  # type: ignore[no-untyped-call]
    if not result.returns_rows:
        return []
    try:
        return list(await result.cursor.fetchall())
    finally:
        result.close()


def _one_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return " ".join(text.split())
