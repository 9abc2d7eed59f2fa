"""The embedded cluster's roles: apart in a new one, and told apart in one that an older version made."""

from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from aiopypay import migrations
from aiopypay.embedded import EmbeddedError, EmbeddedPostgres, cluster, server
from aiopypay.embedded.roles import ADMINISTRATOR, FILES, OWNER, SERVICE
from tests.fake_server import IN_CLEAR, listening

# As version 0.1 made them: one password, and one role that owns all.
ROLES_OF_OLD = """ALTER ROLE postgres PASSWORD '{aiopypay}'
CREATE ROLE aiopypay LOGIN PASSWORD '{aiopypay}'
CREATE DATABASE aiopypay OWNER aiopypay
"""
LAST_OF_OLD = "0008_departures"


def query(dsn: str, sql: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []


def lets_in(dsn: str) -> bool:
    try:
        psycopg2.connect(dsn).close()
    except psycopg2.OperationalError:
        return False
    return True


@pytest.fixture
def old(embedded: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddedPostgres:
    """An older version's cluster, running for the operator, with the tables of its last version."""
    for file in migrations.files():
        if file.stem <= LAST_OF_OLD:
            (tmp_path / file.name).write_text(file.read_text())
    with monkeypatch.context() as patched:
        patched.setattr(cluster, "ROLES_AND_DATABASE", ROLES_OF_OLD)
        patched.setattr(server, "separate", lambda *_: False)
        patched.setattr(migrations, "DIRECTORIES", (tmp_path,))
        embedded.start(for_operator=True)
        migrations.apply(embedded.dsn)
    for role in (OWNER, ADMINISTRATOR):
        embedded.credentials.files[role].unlink()
    return embedded


def test_each_role_has_a_password_of_its_own(embedded: EmbeddedPostgres) -> None:
    embedded.start()
    dsns = {SERVICE: embedded.dsn, OWNER: embedded.owner_dsn, ADMINISTRATOR: embedded.administrator_dsn}
    assert len({parse_dsn(dsn)["password"] for dsn in dsns.values()}) == len(FILES)
    for role, dsn in dsns.items():
        assert query(dsn, "SELECT current_user") == [(role,)]
        assert [lets_in(make_dsn(dsn, user=other)) for other in dsns if other != role] == [False, False]
    assert query(embedded.dsn, "SELECT count(*) FROM pg_class WHERE relowner = 'aiopypay'::regrole") == [(0,)]
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        query(embedded.dsn, "CREATE TABLE other ()")


@pytest.mark.parametrize("is_running", [True, False])
def test_an_older_cluster_is_brought_there(old: EmbeddedPostgres, is_running: bool) -> None:
    told = make_dsn(old.dsn, user=ADMINISTRATOR)
    assert lets_in(told)
    if not is_running:
        old.stop()
    assert old.start() is not is_running

    assert not lets_in(told)
    assert query(old.administrator_dsn, "SELECT 1") == [(1,)]
    owners = "SELECT DISTINCT tableowner::text FROM pg_tables WHERE schemaname = 'public'"
    assert query(old.dsn, owners) == [(OWNER,)]
    database = "SELECT datdba::regrole::text FROM pg_database WHERE datname = current_database()"
    assert query(old.dsn, database) == [(OWNER,)]
    # A service of the older version goes on beside it until the tables are migrated.
    query(old.dsn, "UPDATE installation SET heartbeat_at = now()")
    assert migrations.apply(old.owner_dsn, SERVICE) == [
        file.stem for file in migrations.files() if file.stem > LAST_OF_OLD
    ]
    query(old.dsn, "UPDATE installation SET heartbeat_at = now()")
    for statement in ("DELETE FROM change_log", "UPDATE accounts SET amount = amount"):
        query(old.dsn, statement)
    for statement in (
        "ALTER TABLE transfers DISABLE TRIGGER ALL",
        "TRUNCATE transfers",
        "UPDATE orders SET reason = ''",
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            query(old.dsn, statement)
    # It is done once.
    assert old.start() is False
    old.stop()
    assert old.start() is True
    assert query(old.owner_dsn, "SELECT current_user") == [(OWNER,)]


def test_killed_between_the_files_and_the_roles_it_is_done_by_the_next_start(
    old: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(server, "separate", _killed)
        with pytest.raises(KeyboardInterrupt):
            old.start()
    assert old.credentials.files[OWNER].exists()
    old.start()
    assert query(old.owner_dsn, "SELECT current_user") == [(OWNER,)]


def _killed(*_: object) -> bool:
    raise KeyboardInterrupt


def test_an_administrator_whose_password_is_nowhere_is_one_line(embedded: EmbeddedPostgres) -> None:
    embedded.start()
    embedded.credentials.files[ADMINISTRATOR].unlink()
    with pytest.raises(EmbeddedError, match=r"write the password of its role postgres into postgres\.admin") as refused:
        embedded.start()
    assert str(refused.value).isprintable()


def test_who_sits_on_the_port_is_told_nothing(embedded: EmbeddedPostgres) -> None:
    embedded.initialise()
    with listening(IN_CLEAR, embedded.port) as fake:
        for dsn in (embedded.dsn, embedded.owner_dsn, embedded.administrator_dsn):
            assert not lets_in(dsn)
    assert fake.asked.is_set()
    assert fake.told == b""
