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
from aiopypay.translation import SessionUnfit, leave_rows_out, one_line, told_apart

# In an installed package the files lie inside it, in a checkout beside it.
DIRECTORIES = (Path(__file__).parent / "sql", Path(__file__).parent.parent / "migrations")

RIGHTS = "service_rights.sql"

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
CREATE TABLE migrations (
    name TEXT PRIMARY KEY,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
)
"""

# All that anybody may do with anything in the schema of ours, as text.
SELECT_RIGHTS = """
WITH home AS (SELECT oid, nspacl FROM pg_namespace WHERE oid = (
    SELECT relnamespace FROM pg_class WHERE oid = 'transfers'::regclass
))
SELECT '', '', aclexplode(nspacl)::text FROM home
UNION ALL
SELECT relname::text, '', aclexplode(relacl)::text FROM pg_class JOIN home ON relnamespace = home.oid
UNION ALL
SELECT relname::text, attname::text, aclexplode(attacl)::text
FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid JOIN home ON relnamespace = home.oid
WHERE attacl IS NOT NULL
ORDER BY 1, 2, 3
"""
RIGHTS_LOCK_SECONDS = 2

logger = logging.getLogger(__name__)


def apply(database_url: str, service_role: str | None = None) -> list[str]:
    """Applies what is outstanding and returns its names. Blocks; safe when several processes start together.

    The role of this URL owns what is made; `service_role` then has the rights in RIGHTS to it and no others. None: the
    service works as the same role, or its rights are given elsewhere. Where nothing is outstanding and no rights are to
    be given, the role needs none but to read.

    A process killed in the middle leaves each migration applied whole or not at all. Raises psycopg2.OperationalError
    where the database cannot be reached, StartError for a migration that fails or a database that must not be used,
    psycopg2.Error where the role may not do it.
    """
    connection = _connected(database_url)
    try:
        connection.autocommit = True
        sessions.pin_blocking(connection, **PATIENT)
        with connection.cursor() as cursor:
            # Of this session: it ends with it, however it ends.
            cursor.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
            known = _known(cursor)
        applied = [_apply(connection, file) for file in files() if file.stem not in known]
        if service_role is not None:
            _give_rights(connection, service_role)
    except SessionUnfit as unfit:
        raise StartError(str(unfit)) from unfit
    else:
        return applied
    finally:
        connection.close()


def _connected(database_url: str) -> psycopg2.extensions.connection:
    """Returns a connection to the first server that accepts one, and can be written where there are several."""
    dsns = blocking_dsns(database_url, PATIENT)
    for dsn in dsns[:-1]:
        with contextlib.suppress(psycopg2.OperationalError):
            return psycopg2.connect(dsn, connect_timeout=CONNECT_SECONDS)
    try:
        return psycopg2.connect(dsns[-1], connect_timeout=CONNECT_SECONDS)
    except psycopg2.OperationalError as error:
        raise told_apart(error) from error


def files() -> list[Path]:
    """Returns the migrations in the order of their names."""
    for directory in DIRECTORIES:
        found = sorted(directory.glob("[0-9]*.sql"))
        if found:
            return found
    raise StartError("the migrations are missing: reinstall aiopypay, or run it from its checkout")


def _known(cursor: psycopg2.extensions.cursor) -> set[str]:
    """Returns the names of the migrations that were applied; makes the table of them where there is none."""
    cursor.execute("SELECT to_regclass('migrations') IS NULL")
    if cursor.fetchall() == [(True,)]:
        cursor.execute(CREATE_TABLE)
    cursor.execute("SELECT name FROM migrations")
    return {name for (name,) in cursor.fetchall()}


def _give_rights(connection: psycopg2.extensions.connection, service_role: str) -> None:
    """All at once: a service that works as this role meanwhile never lacks one.

    Where they are right already nothing is written: at a server that cannot confirm it (its synchronous standby is
    gone), or that waits for others, a start would hang which has nothing to change.
    """
    connection.autocommit = False
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{RIGHTS_LOCK_SECONDS}s'")
        cursor.execute("SELECT current_user, EXISTS (SELECT FROM pg_roles WHERE rolname = %s)", (service_role,))
        [(owner, is_there)] = cursor.fetchall()
        if not is_there:
            raise StartError(
                f"the role {service_role}, which DATABASE_URL names, does not exist: make it, as one who may, with "
                f"CREATE ROLE {service_role} LOGIN PASSWORD '…'"
            )
        if owner != service_role:
            cursor.execute("SELECT set_config('aiopypay.service_role', %s, TRUE)", (service_role,))
            before = _rights(cursor)
            cursor.execute((files()[0].parent / RIGHTS).read_text(encoding="utf-8"))
            if _rights(cursor) == before:
                connection.rollback()
    connection.autocommit = True


def _rights(cursor: psycopg2.extensions.cursor) -> list[tuple[str, ...]]:
    cursor.execute(SELECT_RIGHTS)
    return cursor.fetchall()


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
