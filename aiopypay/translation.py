"""What a failure of the driver is, told by phase, class and SQLSTATE, never by text."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Literal

import psycopg2

from aiopypay import errors

logger = logging.getLogger(__name__)

Phase = Literal["connect", "transaction", "commit"]

# https://www.postgresql.org/docs/current/errcodes-appendix.html
# A serialisation failure, a deadlock.
CONFLICTS = {"40001", "40P01"}
BUSY = CONFLICTS | {"55P03", "57014", "25P03"}
# A prepared statement that does not fit the tables any more, is not there, or is somebody else's: a session made anew
# has it, or is refused as what it is.
OUTDATED = {"0A000", "26000", "42P05"}
UNAVAILABLE_CLASSES = {"08", "53", "58"}
UNAVAILABLE = {"57P01", "57P02", "57P03", "57P05", "25006"}
UNIQUE_VIOLATION = "23505"

# What libpq itself says, in the language of its source.
UNPROVEN = ("authentication method requirement", "incorrect server signature")

UNAVAILABLE_DETAIL = "The database is unavailable. Nothing was booked or changed; try again."
IN_DOUBT_DETAIL = "The database did not answer to COMMIT. Retry with the same Idempotency-Key."


def translate(error: BaseException, phase: Phase) -> errors.Problem:
    """Returns the problem that a failure of the driver in this phase is, told by class and SQLSTATE, never by text."""
    if isinstance(error, SessionUnfit):
        return errors.DatabaseUnfit(UNAVAILABLE_DETAIL, str(error))
    code: str | None = getattr(error, "pgcode", None)
    if isinstance(error, ServerCancel):
        code = "57014"
    if phase == "commit" and not _certainly_not_committed(code):
        return errors.CommitInDoubt(IN_DOUBT_DETAIL)
    if code in BUSY | OUTDATED:
        busy = errors.DatabaseBusy()
        busy.is_conflict = code in CONFLICTS
        return busy
    if is_unavailable(error, code):
        return errors.DatabaseUnavailable(UNAVAILABLE_DETAIL)
    logger.error("PostgreSQL rejected a statement: %s", one_line(error))
    if code == UNIQUE_VIOLATION:
        return errors.DuplicateOrder(code)
    return errors.StatementRejected(code or "")


def _certainly_not_committed(code: str | None) -> bool:
    # Serialisation failures, constraints checked at COMMIT, and a transaction that had failed before. Any other
    # code at COMMIT may have come after the commit was durable (a backend that is shut down says 57P01).
    return code is not None and code[:2] in ("40", "23", "25") and code != "25P03"


def is_unavailable(error: BaseException, code: str | None) -> bool:
    """Tells whether the failure says that the database is away, and nothing of the statement."""
    if code is not None:
        return code in UNAVAILABLE or code[:2] in UNAVAILABLE_CLASSES
    # Without a code the server said nothing: refused, lost, closed, hung. ProgrammingError and its like are ours.
    return isinstance(error, TimeoutError | OSError | psycopg2.OperationalError | psycopg2.InterfaceError) or (
        type(error) is psycopg2.DatabaseError
    )


class SessionUnfit(Exception):
    """A session in which our statements would not mean what they say; the message tells the operator what to do."""


class ServerUnproven(psycopg2.OperationalError):
    """What listens in the server's place wanted the password told, or could not prove that it knows it.

    It was told nothing. The message tells the operator what to do.
    """

    def __init__(self, error: psycopg2.OperationalError) -> None:
        super().__init__(
            f"who answers in the database's place does not prove that it knows the password, and was told nothing "
            f"({one_line(error)}): see what listens there; if it is the right server, have it use scram-sha-256 "
            "(password_encryption, then the role's password anew, and pg_hba.conf), or say in the URL what is right, "
            "such as require_auth=md5 or, where no password is asked for, require_auth=none"
        )


def told_apart(error: psycopg2.OperationalError) -> psycopg2.OperationalError:
    """Returns the failure to connect as `ServerUnproven` where it is that. libpq has no code for it, only its text."""
    is_unproven = any(words in str(error) for words in UNPROVEN)
    return ServerUnproven(error) if is_unproven else error


class ServerCancel(Exception):
    """The server cancelled the statement (statement_timeout, pg_cancel_backend)."""


@contextlib.asynccontextmanager
async def server_cancels_told_apart() -> AsyncIterator[None]:
    """aiopg raises CancelledError when the *server* cancels a statement; nobody cancelled the task then."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except asyncio.CancelledError as error:
        if task is None or task.cancelling() > before:
            raise
        raise ServerCancel from error


def one_line(error: BaseException) -> str:
    """Returns the error's text for the log.

    Of what PostgreSQL says only the primary message and SQLSTATE: detail and context hold rows, with what is in them.
    """
    text = _primary(error) if isinstance(error, psycopg2.Error) else str(error)
    return " ".join(text.split()) or type(error).__name__


def _primary(error: psycopg2.Error) -> str:
    if error.diag.message_primary is not None:
        return f"{error.diag.message_primary} (SQLSTATE {error.pgcode})"
    # Where the session has ended, or never began, all that there is is text. Details are lines of their own.
    return next(iter(str(error).strip().splitlines()), "")


def leave_rows_out(error: psycopg2.Error) -> None:
    """Shortens the error's text to its `one_line`, for whoever prints it, or a traceback with it anywhere in it."""
    error.args = (one_line(error),)
