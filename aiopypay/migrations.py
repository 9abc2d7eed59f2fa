"""Applies migrations/*.sql: in order, each once, each in one transaction together with the note that it was.

yoyo-migrations was looked at: it notes a migration in a second transaction, so that a process killed between the
two applies it again, and its lock is a row that outlives kill -9.
"""

import contextlib
import logging
from pathlib import Path

import psycopg2
import psycopg2.extensions

from aiopypay import sessions
from aiopypay.addresses import blocking_dsns
from aiopypay.errors import StartError
from aiopypay.translation import SessionUnfit, leave_rows_out, one_line

# In an installed package the files lie inside it, in a checkout beside it.
DIRECTORIES = (Path(__file__).parent / "sql", Path(__file__).parent.parent / "migrations")

# Any number will do, as long as all processes take the same.
ADVISORY_LOCK = 4_117_729_001

CONNECT_SECONDS = 3
# A migration takes as long as it takes, and waits for those who use what it changes. What it changes is logged for the
# nodes: it is none of theirs.
PATIENT = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "aiopypay.node": "",
}

CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS migrations (
    name TEXT PRIMARY KEY,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
)
"""

logger = logging.getLogger(__name__)


def apply(database_url: str) -> list[str]:
    """Applies what is outstanding and returns its names. Blocks; safe when several processes start together.

    A process killed in the middle leaves each migration applied whole or not at all. Raises psycopg2.OperationalError
    where the database cannot be reached, StartError for a migration that fails or a database that must not be used.
    """
    connection = _connected(database_url)
    try:
        connection.autocommit = True
        sessions.pin_blocking(connection, **PATIENT)
        with connection.cursor() as cursor:
            # Of this session: it ends with it, however it ends.
            cursor.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
            cursor.execute(CREATE_TABLE)
            cursor.execute("SELECT name FROM migrations")
            known = {name for (name,) in cursor.fetchall()}
        return [_apply(connection, file) for file in files() if file.stem not in known]
    except SessionUnfit as unfit:
        raise StartError(str(unfit)) from unfit
    finally:
        connection.close()


def _connected(database_url: str) -> psycopg2.extensions.connection:
    """Returns a connection to the first server that accepts one, and can be written where there are several."""
    dsns = blocking_dsns(database_url, PATIENT)
    for dsn in dsns[:-1]:
        with contextlib.suppress(psycopg2.OperationalError):
            return psycopg2.connect(dsn, connect_timeout=CONNECT_SECONDS)
    return psycopg2.connect(dsns[-1], connect_timeout=CONNECT_SECONDS)


def files() -> list[Path]:
    """Returns the migrations in the order of their names."""
    for directory in DIRECTORIES:
        found = sorted(directory.glob("[0-9]*.sql"))
        if found:
            return found
    raise StartError("the migrations are missing: reinstall aiopypay, or run it from its checkout")


def _apply(connection: psycopg2.extensions.connection, file: Path) -> str:
    connection.autocommit = False
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(file.read_text(encoding="utf-8"))
            cursor.execute("INSERT INTO migrations (name) VALUES (%s)", (file.stem,))
    except psycopg2.OperationalError:
        raise
    except psycopg2.Error as error:
        leave_rows_out(error)
        raise StartError(f"migration {file.name} failed: {one_line(error)}") from error
    connection.autocommit = True
    logger.info("Applied migration %s.", file.stem)
    return file.stem


def newest() -> str:
    """Returns the name of the newest migration there is."""
    return files()[-1].stem
