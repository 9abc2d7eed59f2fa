"""What a session must be before a statement of ours runs in it: of a UTF8 database, with our settings, and our own.

The settings ride in the connection string, so that a session of PostgreSQL's own has them from its first moment. A
pooler in between (PgBouncer) takes them out without a word: then they are set by a statement. What cannot be set is
refused, with one line that says what the operator is to do.
"""

from collections.abc import Sequence
from typing import Any

import aiopg
from psycopg2.extensions import connection as BlockingConnection  # noqa: N812 - a class with a lower-case name

from aiopypay import driver
from aiopypay.addresses import SESSION_SETTINGS
from aiopypay.translation import SessionUnfit

ENCODING = "UTF8"
# The driver quotes by what these were when the session began: changed later, a backslash would change its meaning.
FROM_THE_START = ("client_encoding", "standard_conforming_strings")
# A pooler that hands out sessions in turn, and has several idle, is found out by the second question.
QUESTIONS = 3

SELECT_BACKEND = "SELECT pg_backend_pid()"
LOOK = """
SELECT pg_backend_pid(), current_setting('server_encoding'), current_setting('session_replication_role'),
    EXISTS (SELECT FROM pg_prepared_statements), """ + ", ".join(
    f"current_setting('{name}', TRUE)" for name in SESSION_SETTINGS
)
SET = "SELECT " + ", ".join(f"set_config('{name}', %s, FALSE)" for name in SESSION_SETTINGS)

SHARED = (
    "the pooler before the database lends its sessions to one transaction at a time, while settings and prepared "
    "statements are a session's: set pool_mode = session for this database"
)
LEFT_OVER = (
    "the pooler before the database lends a session on as its last user left it: set pool_mode = session and "
    "server_reset_query = DISCARD ALL for this database"
)


async def open_session(dsn: str, *, is_first: bool) -> aiopg.Connection:
    """Returns a connection whose session has all of SESSION_SETTINGS. The caller sets the deadline.

    It costs one round trip. `is_first`: where a pooler stands before the database, another connection is opened for
    a moment, which shows whether it shares sessions.

    Raises SessionUnfit, psycopg2.Error, OSError.
    """
    connection = await driver.connect(dsn)
    try:
        look, *_ = await _ask(connection, LOOK)
        if is_first and is_pooled(connection.raw, look):
            await _check_own(connection, dsn, look[0])
        check(look)
        if not is_pinned(look, SESSION_SETTINGS.values()):
            await _ask(connection, SET, list(SESSION_SETTINGS.values()))
    except BaseException:
        connection.close()
        raise
    return connection


def pin_blocking(connection: BlockingConnection, **instead: str) -> None:
    """The same for a blocking connection in autocommit, whose caller knows that the pooler does not share sessions.

    `instead` are the settings with other values than usual. Raises SessionUnfit, psycopg2.Error.
    """
    values = list({**SESSION_SETTINGS, **instead}.values())
    with connection.cursor() as cursor:
        cursor.execute(LOOK)
        look = cursor.fetchone()
        assert look is not None  # noqa: S101 - it is one row, whatever the database
        check(look)
        if not is_pinned(look, values):
            cursor.execute(SET, values)


def check(look: Sequence[Any]) -> None:
    """Raises SessionUnfit for what cannot be set, out of the answer to LOOK."""
    _, encoding, replication_role, has_left_overs, *settings = look
    if encoding != ENCODING:
        raise SessionUnfit(
            f"the database's encoding is {encoding}, but must be UTF8, for texts to be counted and kept as they are: "
            "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, move the data there (pg_dump, pg_restore), and name "
            "it in DATABASE_URL"
        )
    if replication_role != "origin":
        raise SessionUnfit(
            f"session_replication_role is {replication_role}, which switches the checks of the ledger off: reset it "
            "with ALTER ROLE … RESET session_replication_role (or ALTER DATABASE, ALTER SYSTEM, where it is set)"
        )
    if has_left_overs:
        raise SessionUnfit(LEFT_OVER)
    for name, value in zip(SESSION_SETTINGS, settings, strict=True):
        if name in FROM_THE_START and value != SESSION_SETTINGS[name]:
            raise SessionUnfit(
                f"{name} is {value} where a session begins, behind the pooler: set it with ALTER ROLE … SET {name} = "
                f"'{SESSION_SETTINGS[name]}'"
            )


def is_pinned(look: Sequence[Any], values: Any) -> bool:
    """Tells whether the session has these values of SESSION_SETTINGS already, out of the answer to LOOK."""
    return list(look[4:]) == list(values)


def is_pooled(raw: BlockingConnection, look: Sequence[Any]) -> bool:
    """Tells whether a pooler answered: it hands out process ids of its own."""
    return bool(raw.get_backend_pid() != look[0])


async def _check_own(connection: aiopg.Connection, dsn: str, backend: int) -> None:
    """Raises SessionUnfit where two connections meet the same backend, or one meets several."""
    another = await driver.connect(dsn)
    try:
        anothers = None
        for _ in range(QUESTIONS):
            met, anothers_before = (await _ask(connection, SELECT_BACKEND))[0][0], anothers
            anothers = (await _ask(another, SELECT_BACKEND))[0][0]
            if met != backend or anothers == backend or anothers_before not in (None, anothers):
                raise SessionUnfit(SHARED)
    finally:
        another.close()


async def _ask(
    connection: aiopg.Connection, statement: str, parameters: Sequence[str] | None = None
) -> list[tuple[Any, ...]]:
    cursor = await connection.cursor()
    try:
        await cursor.execute(statement, parameters)
        return await cursor.fetchall()
    finally:
        cursor.close()
