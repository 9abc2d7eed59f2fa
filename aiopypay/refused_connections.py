"""Why a server lets nobody in: its SQLSTATE, which the driver tells of statements only, not of a session's start."""

import ctypes
import select
import time
from dataclasses import dataclass

import psycopg2
from psycopg2 import extensions

from aiopypay.addresses import blocking_dsns

CONNECT_SECONDS = 3.0
# libpq's PQERRORS_VERBOSE: the SQLSTATE stands before the message, whatever the language of either.
VERBOSE = 2


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the server said, as a code and for the operator to read."""

    sqlstate: str
    told: str


def refusal_of(database_url: str) -> Refusal | None:
    """Connects once more, and returns why that is refused; None where it is not, or nobody said anything, or where of
    several hosts one may be well soon. Blocks for a few seconds at most.
    """
    try:
        dsns = blocking_dsns(database_url, {})
    except OSError:
        return None
    return _refusal(dsns[0]) if len(dsns) == 1 else None


def _refusal(dsn: str) -> Refusal | None:
    try:
        connection = psycopg2.connect(dsn, async_=True)
    except psycopg2.OperationalError:
        return None
    try:
        _make_verbose(connection)
        _wait(connection)
    except psycopg2.OperationalError as error:
        return _read(str(error))
    except (OSError, AttributeError):
        # Another build of the driver: then nothing is known, and the database is waited for.
        return None
    finally:
        connection.close()
    return None


def _make_verbose(connection: extensions.connection) -> None:
    """By the driver's own libpq: it hands out the pointer for what it has no function for."""
    libpq = ctypes.CDLL(psycopg2._psycopg.__file__)  # noqa: SLF001 - where libpq is linked in
    libpq.PQsetErrorVerbosity.argtypes = [ctypes.c_void_p, ctypes.c_int]
    libpq.PQsetErrorVerbosity(connection.pgconn_ptr, VERBOSE)


def _wait(connection: extensions.connection) -> None:
    deadline = time.monotonic() + CONNECT_SECONDS
    while (state := connection.poll()) != extensions.POLL_OK and (left := deadline - time.monotonic()) > 0:
        reads, writes = ([connection], []) if state == extensions.POLL_READ else ([], [connection])
        select.select(reads, writes, [], left)


def _read(text: str) -> Refusal | None:
    """Takes `… FATAL:  28P01: password authentication failed …` apart."""
    severity, separator, rest = text.partition(":  ")
    code, colon, message = rest.partition(": ")
    if not separator or not colon or len(code) != 5 or not severity:
        return None
    return Refusal(code, f"{message.strip().splitlines()[0]} (SQLSTATE {code})")
