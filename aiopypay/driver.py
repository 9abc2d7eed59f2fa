"""aiopg's connection, as uvloop needs it."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import aiopg
import psycopg2

from aiopypay.translation import leave_rows_out, one_line, told_apart

logger = logging.getLogger(__name__)


class Connection(aiopg.Connection):
    """Takes the writer off the event loop when libpq closes its socket on its own.

    aiopg takes off the reader only. While it connects it has a writer too, and with a refused connect uvloop is left
    with a closed handle under the descriptor's number: the next connection that gets this number fails in add_reader
    with RuntimeError.

    `begins_with_next`: the next statement begins a transaction; BEGIN is sent along with it. `prepared` are the names
    of the statements that this session has prepared. `deadline` is that of the transaction under way; each answer to a
    statement puts it off by `statement_seconds`, unless that is None.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.begins_with_next = False
        self.prepared: set[str] = set()
        self.deadline: asyncio.Timeout | None = None
        self.statement_seconds: float | None = None

    @staticmethod
    def _ready(weak_self: Any) -> None:
        connection = weak_self()
        if connection is None:
            return
        descriptor, writing = connection._fileno, connection._writing  # noqa: SLF001 - of this class's own kind
        waiter = connection._waiter  # noqa: SLF001
        aiopg.Connection._ready(weak_self)  # noqa: SLF001
        if waiter is not None and waiter.done() and not waiter.cancelled():
            error = waiter.exception()
            if isinstance(error, psycopg2.Error):
                # Here, where it comes into being: whoever prints it, or what it led to, prints no row.
                leave_rows_out(error)
        if writing and descriptor is not None and connection._fileno is None:  # noqa: SLF001
            # In this same turn of the loop: the number may be given out again at once.
            asyncio.get_running_loop().remove_writer(descriptor)


async def connect(dsn: str) -> aiopg.Connection:
    """Returns an open connection. The caller sets the deadline.

    Raises ServerUnproven, another psycopg2.OperationalError, OSError.

    It has no time limit of its own: aiopg's is `asyncio.wait_for`, which before Python 3.12 loses a cancellation, and
    with it the caller's deadline, that meets the answer.
    """
    try:
        return await Connection(dsn, None, enable_hstore=False, enable_json=False)
    except psycopg2.OperationalError as error:
        raise told_apart(error) from error
    except RuntimeError as error:
        raise OSError(f"the event loop does not take the socket: {error}") from error


def log_loop_failure(loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """An exception handler for the event loop: aiopg tells it of statements that the server cancelled, in full."""
    error = context.get("exception")
    if isinstance(error, psycopg2.Error):
        logger.warning("PostgreSQL cancelled a statement: %s", one_line(error))
    else:
        loop.default_exception_handler(dict(context))
