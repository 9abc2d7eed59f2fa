"""The cluster's roles, and the password of each: in a file of its own, so that who has one has not the others."""

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg2
from psycopg2 import extensions
from psycopg2.extensions import make_dsn

from aiopypay.embedded.errors import EmbeddedError
from aiopypay.embedded.files import write_once

DATABASE = "aiopypay"
# The service works as the first, which owns nothing; migrations run as the second; the last is PostgreSQL's own.
SERVICE = "aiopypay"
OWNER = "aiopypay_owner"
ADMINISTRATOR = "postgres"
FILES = {
    SERVICE: "postgres.password",
    OWNER: "postgres.owner.password",
    ADMINISTRATOR: "postgres.administrator.password",
}

# For a single-user server, which takes one statement a line.
ROLES_AND_DATABASE = f"""ALTER ROLE {ADMINISTRATOR} PASSWORD '{{{ADMINISTRATOR}}}'
CREATE ROLE {OWNER} LOGIN PASSWORD '{{{OWNER}}}'
CREATE ROLE {SERVICE} LOGIN PASSWORD '{{{SERVICE}}}'
CREATE DATABASE {DATABASE} OWNER {OWNER}
"""

# Of a cluster in which one role was all. Until the next migration gives it its exact rights, the service goes on with
# those that any version of it needs.
SEPARATE = f"""
DO $$
DECLARE
    relations OID[] := ARRAY(
        SELECT oid FROM pg_class WHERE relowner = '{SERVICE}'::REGROLE AND relkind IN ('r', 'p', 'v', 'S')
    );
    relation REGCLASS;
BEGIN
    REASSIGN OWNED BY {SERVICE} TO {OWNER};
    FOREACH relation IN ARRAY relations LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO {SERVICE}', relation);
    END LOOP;
END
$$
"""  # noqa: S608 - words of ours


class Credentials:
    """The roles' passwords in a data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.files = {role: data_dir / name for role, name in FILES.items()}

    def make(self, *roles: str) -> None:
        """Draws the passwords of these roles, all of them where none is named, unless they are there."""
        for role in roles or self.files:
            write_once(self.files[role], secrets.token_urlsafe(24))


def local_dsn(port: int, role: str, password: str) -> str:
    """Returns the connection string of a role, whose password only a server that knows it learns: none."""
    return make_dsn(
        host="127.0.0.1",
        port=port,
        user=role,
        dbname=DATABASE,
        password=password,
        sslmode="disable",
        gssencmode="disable",
        require_auth="scram-sha-256",
    )


def separate(port: int, passwords: Mapping[str, str]) -> bool:
    """Brings a running cluster of an older version here: before, the administrator and the service had one password,
    and the service owned all. Whole or not at all; returns whether there was something to do.

    Raises `EmbeddedError` where the administrator has another password altogether.
    """
    with contextlib.suppress(psycopg2.OperationalError), _connected(port, passwords[ADMINISTRATOR]):
        return False
    try:
        with _connected(port, passwords[SERVICE]) as connection, connection, connection.cursor() as cursor:
            verifiers = {
                role: extensions.encrypt_password(passwords[role], role, connection, "scram-sha-256")
                for role in (OWNER, ADMINISTRATOR)
            }
            cursor.execute(f"CREATE ROLE {OWNER} LOGIN PASSWORD %s", (verifiers[OWNER],))
            cursor.execute(SEPARATE)
            cursor.execute(f"ALTER ROLE {ADMINISTRATOR} PASSWORD %s", (verifiers[ADMINISTRATOR],))
    except psycopg2.Error as error:
        raise EmbeddedError(
            f"The roles of the embedded PostgreSQL cannot be told apart ({str(error).strip().splitlines()[0]}): "
            f"write the password of its role {ADMINISTRATOR} into {FILES[ADMINISTRATOR]} in the data directory."
        ) from error
    return True


@contextlib.contextmanager
def _connected(port: int, password: str) -> Iterator[extensions.connection]:
    connection = psycopg2.connect(local_dsn(port, ADMINISTRATOR, password), connect_timeout=5)
    try:
        yield connection
    finally:
        connection.close()
