"""What the database itself guarantees, whoever asks it: history stays, balances hold, migrations apply once."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import aiohttp
import psycopg2
import psycopg2.errors
import pytest
from psycopg2.extensions import make_dsn

from aiopypay import migrations
from aiopypay.embedded import EmbeddedPostgres
from aiopypay.embedded.roles import OWNER
from tests import ledger
from tests.client import Service
from tests.cluster import administration_dsn
from tests.conftest import run_apart

MIGRATE = "import sys; from aiopypay import migrations; print(*migrations.apply(sys.argv[1]))"


@pytest.fixture(scope="module")
def paid(shared_base_url: str, shared_database_url: str) -> None:
    """A history: a deposit, a payment, its commission."""

    async def pay() -> None:
        async with aiohttp.ClientSession() as session:
            service = Service(session, shared_base_url, shared_database_url)
            caller = await service.register()
            ledger.deposit(shared_database_url, caller.accounts["USD"], "100")
            (await caller.pay(await service.register(), "10", key="rent")).ok()

    run_apart(pay())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE transfers SET amount = amount + 1",
        "UPDATE transfers SET comment = ''",
        "UPDATE transfers SET amount = amount WHERE FALSE",
        "DELETE FROM transfers",
        "TRUNCATE transfers",
        "UPDATE orders SET status = 'refused', reason = 'x', posted_at = NULL",
        "DELETE FROM orders",
        "TRUNCATE orders CASCADE",
        "DELETE FROM accounts",
        "TRUNCATE accounts CASCADE",
        "DELETE FROM users",
        "TRUNCATE users CASCADE",
        "DELETE FROM currencies",
        "TRUNCATE currencies CASCADE",
        "INSERT INTO orders SELECT * FROM orders ON CONFLICT (id) DO UPDATE SET status = 'refused'",
        "UPDATE users SET id = id + 1000000",
        "UPDATE accounts SET id = id + 1000000 WHERE id > 0",
        "MERGE INTO transfers USING orders ON order_id = orders.id WHEN MATCHED THEN DELETE",
    ],
)
@pytest.mark.parametrize("role", [OWNER, "postgres"])
def test_history_is_neither_changed_nor_deleted(
    shared_database_url: str, paid: None, statement: str, role: str
) -> None:
    before = ledger.counts(shared_database_url)
    dsn = make_dsn(shared_database_url, user=role)
    with pytest.raises(psycopg2.errors.RestrictViolation):
        ledger.query(dsn, statement)
    assert ledger.counts(shared_database_url) == before
    ledger.assert_ledger_balances(shared_database_url)


INSERT_TRANSFER = """
INSERT INTO transfers (order_id, kind, from_account_id, to_account_id, amount, comment)
SELECT id, {kind}, {source}, {target}, {amount}, {comment} FROM orders LIMIT 1
"""


def insert_transfer(
    *, kind: str = "'payment'", source: str = "1", target: str = "2", amount: str = "1", comment: str = "''"
) -> str:
    return INSERT_TRANSFER.format(kind=kind, source=source, target=target, amount=amount, comment=comment)


INSERT_ORDER_OF_THE_SAME_KEY = """
INSERT INTO orders (id, user_id, idempotency_key, fingerprint, status, accepted_at, posted_at)
SELECT gen_random_uuid(), user_id, idempotency_key, '', 'posted', now(), now()
FROM orders WHERE idempotency_key IS NOT NULL
"""
# A right one beside it does not help.
INSERT_TRANSFER_OF_NO_ORDER = """
INSERT INTO transfers (order_id, kind, from_account_id, to_account_id, amount, comment)
SELECT order_id, 'payment', 1, 2, 1, ''
FROM (SELECT id FROM orders LIMIT 1) AS known
CROSS JOIN LATERAL (VALUES (known.id), (gen_random_uuid())) AS two (order_id)
"""
INSERT_USER = "INSERT INTO users (username, full_name, password_hash) VALUES "
INSERT_ORDER = "INSERT INTO orders (id, user_id, fingerprint, status, accepted_at, posted_at, reason) VALUES "


@pytest.mark.parametrize(
    ("statement", "violation"),
    [
        ("UPDATE accounts SET amount = -0.01 WHERE id > 0", psycopg2.errors.CheckViolation),
        ("INSERT INTO accounts (user_id, currency_id, amount) VALUES (1, 'USD', -1)", psycopg2.errors.CheckViolation),
        ("INSERT INTO accounts (id, user_id, currency_id) VALUES (0, 1, 'USD')", psycopg2.errors.CheckViolation),
        ("INSERT INTO accounts (id, user_id, currency_id) VALUES (-99, 1, 'USD')", psycopg2.errors.CheckViolation),
        ("INSERT INTO accounts (user_id, currency_id) VALUES (NULL, 'USD')", psycopg2.errors.CheckViolation),
        ("INSERT INTO accounts (user_id, currency_id) VALUES (1, 'YUP')", psycopg2.errors.ForeignKeyViolation),
        ("INSERT INTO accounts (user_id, currency_id) VALUES (10^9, 'USD')", psycopg2.errors.ForeignKeyViolation),
        (insert_transfer(amount="0"), psycopg2.errors.CheckViolation),
        (insert_transfer(amount="-1"), psycopg2.errors.CheckViolation),
        (insert_transfer(target="1"), psycopg2.errors.CheckViolation),
        (insert_transfer(kind="'gift'"), psycopg2.errors.CheckViolation),
        (insert_transfer(comment="repeat('x', 256)"), psycopg2.errors.CheckViolation),
        (insert_transfer(source="999999"), psycopg2.errors.ForeignKeyViolation),
        (insert_transfer(target="999999"), psycopg2.errors.ForeignKeyViolation),
        (INSERT_TRANSFER_OF_NO_ORDER, psycopg2.errors.ForeignKeyViolation),
        (
            f"{INSERT_ORDER} (gen_random_uuid(), 999999, '', 'posted', now(), now(), NULL)",
            psycopg2.errors.ForeignKeyViolation,
        ),
        (INSERT_ORDER_OF_THE_SAME_KEY, psycopg2.errors.UniqueViolation),
        (f"{INSERT_ORDER} (gen_random_uuid(), 1, '', 'lost', now(), now(), NULL)", psycopg2.errors.CheckViolation),
        (f"{INSERT_ORDER} (gen_random_uuid(), 1, '', 'posted', now(), NULL, NULL)", psycopg2.errors.CheckViolation),
        (f"{INSERT_ORDER} (gen_random_uuid(), 1, '', 'refused', now(), NULL, NULL)", psycopg2.errors.CheckViolation),
        (f"{INSERT_USER} ('SUPERUSER', '', '')", psycopg2.errors.UniqueViolation),
        (f"{INSERT_USER} (E'a\\n', '', '')", psycopg2.errors.CheckViolation),
        (f"{INSERT_USER} ('a:b', '', '')", psycopg2.errors.CheckViolation),
        ("UPDATE currencies SET commission = -0.01", psycopg2.errors.CheckViolation),
        ("UPDATE currencies SET decimals = -1", psycopg2.errors.CheckViolation),
        ("UPDATE currencies SET id = 'usd' WHERE id = 'USD'", psycopg2.Error),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_refused(
    shared_database_url: str, paid: None, statement: str, violation: type[psycopg2.Error]
) -> None:
    before = ledger.counts(shared_database_url)
    with pytest.raises(violation):
        ledger.query(shared_database_url, statement)
    assert ledger.counts(shared_database_url) == before


def test_external_accounts_may_go_below_zero(database_url: str) -> None:
    ledger.query(database_url, "UPDATE accounts SET amount = -100 WHERE id < 0")
    assert ledger.query(database_url, "SELECT DISTINCT amount FROM accounts WHERE id < 0") == [(-100,)]


def test_each_change_of_an_account_raises_its_version(database_url: str) -> None:
    for version in (1, 2, 3):
        ledger.query(database_url, "UPDATE accounts SET amount = amount + 1, version = 0 WHERE id = 1")
        assert ledger.value(database_url, "SELECT version FROM accounts WHERE id = 1") == version


def test_a_new_database_holds_the_documented_currencies_and_superuser(database_url: str) -> None:
    currencies = ledger.query(database_url, "SELECT id, commission::text, decimals FROM currencies ORDER BY ordinal")
    assert currencies == [("USD", "0.01", 2), ("CNY", "0.02", 2), ("EUR", "0.03", 2)]
    assert ledger.query(database_url, "SELECT id, username, is_admin FROM users") == [(1, "superuser", True)]
    accounts = ledger.query(database_url, "SELECT id, currency_id, user_id FROM accounts WHERE id > 0 ORDER BY id")
    assert accounts == [(1, "USD", 1), (2, "CNY", 1), (3, "EUR", 1)]
    external = ledger.query(database_url, "SELECT currency_id, user_id FROM accounts WHERE id < 0 ORDER BY id DESC")
    assert external == [("USD", None), ("CNY", None), ("EUR", None)]


def test_operators_find_the_columns_by_the_names_of_the_json(database_url: str) -> None:
    ledger.query(database_url, "SELECT id, description, commission, decimals FROM currencies")
    ledger.query(database_url, "SELECT id, username, full_name, is_admin, is_active FROM users")
    ledger.query(database_url, "SELECT id, user_id, currency_id, amount, created_at, updated_at FROM accounts")
    ledger.query(database_url, "SELECT id, user_id, status, accepted_at, posted_at, reason FROM orders")
    ledger.query(
        database_url,
        'SELECT id, order_id, kind, "timestamp", from_account_id, to_account_id, amount, comment FROM transfers',
    )


# The change log

LOGGED = "SELECT subject, row_id FROM change_log ORDER BY subject, row_id"
AS_REPLICA = "-c session_replication_role=replica"
AS_NODE = "-c aiopypay.node=yes"


def changed_by(database_url: str, *statements: str, role: str = OWNER, options: str = "") -> None:
    """Executes statements in one session of this role."""
    connection = ledger.connect(make_dsn(database_url, user=role, options=options))
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    finally:
        connection.close()


@pytest.fixture
def logged_url(database_url: str) -> str:
    """A database whose log is empty, as it is not after the migrations and the start."""
    ledger.query(database_url, "TRUNCATE change_log")
    return database_url


@pytest.mark.parametrize(
    ("statement", "logged"),
    [
        ("UPDATE accounts SET amount = amount WHERE id = 1", [("accounts", 1)]),
        ("UPDATE accounts SET amount = amount WHERE id IN (2, -1)", [("accounts", -1), ("accounts", 2)]),
        ("UPDATE accounts SET amount = amount WHERE FALSE", []),
        ("INSERT INTO accounts (id, user_id, currency_id) VALUES (90, 1, 'USD')", [("accounts", 90)]),
        ("UPDATE users SET is_active = FALSE", [("users", 1)]),
        (f"{INSERT_USER} ('SUPERUSER', '', '') ON CONFLICT (lower(username)) DO UPDATE SET full_name = ''",
         [("users", 1)]),
        ("UPDATE currencies SET commission = 0", [("currencies", None)]),
        ("UPDATE currencies SET commission = 0 WHERE FALSE", []),
        ("INSERT INTO currencies (id, description, commission, decimals) VALUES ('GBP', '', 0, 2)",
         [("currencies", None)]),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("role", "options"), [(OWNER, ""), ("postgres", AS_REPLICA), (OWNER, AS_NODE)])
def test_what_others_than_nodes_change_is_logged(
    logged_url: str, statement: str, logged: list[tuple[str, int | None]], role: str, options: str
) -> None:
    changed_by(logged_url, statement, role=role, options=options)
    assert ledger.query(logged_url, LOGGED) == ([] if options == AS_NODE else logged)


def test_a_node_may_have_a_change_logged(logged_url: str) -> None:
    change = "UPDATE users SET is_active = TRUE"
    changed_by(logged_url, "SELECT set_config('aiopypay.node', '', FALSE)", change, options=AS_NODE)
    assert ledger.query(logged_url, LOGGED) == [("users", 1)]


def test_more_than_ten_thousand_rows_are_one_entry(logged_url: str) -> None:
    insert = "INSERT INTO accounts (user_id, currency_id) SELECT 1, 'USD' FROM generate_series(1, {})"
    changed_by(logged_url, insert.format(10_000))
    assert ledger.value(logged_url, "SELECT count(row_id) FROM change_log") == 10_000
    changed_by(logged_url, insert.format(10_001))
    assert ledger.query(logged_url, f"{LOGGED.replace('ORDER', 'WHERE row_id IS NULL ORDER')}") == [("accounts", None)]


def test_whoever_may_change_an_account_need_not_be_allowed_to_write_the_log(
    logged_url: str, postgres: EmbeddedPostgres
) -> None:
    dsn = make_dsn(logged_url, user="postgres")
    changed_by(dsn, "CREATE ROLE clerk", "GRANT SELECT, UPDATE ON accounts TO clerk", role="postgres")
    try:
        changed_by(
            dsn,
            "CREATE TEMPORARY TABLE change_log (subject TEXT, row_id BIGINT)",
            "GRANT ALL ON change_log TO clerk",
            "SET ROLE clerk",
            "UPDATE accounts SET amount = 1 WHERE id = 1",
            role="postgres",
        )
        assert ledger.query(logged_url, LOGGED) == [("accounts", 1)]
    finally:
        changed_by(dsn, "DROP OWNED BY clerk", "DROP ROLE clerk", role="postgres")


@pytest.mark.parametrize(
    "statement",
    [
        *(f"DELETE FROM {table}" for table in ("currencies", "users", "accounts", "orders", "transfers")),
        *(f"TRUNCATE {table} CASCADE" for table in ("currencies", "users", "accounts", "orders", "transfers")),
        "UPDATE transfers SET amount = amount + 1",
        "UPDATE orders SET reason = 'x'",
        "UPDATE users SET id = id + 1000000",
        "UPDATE accounts SET id = id + 1000000 WHERE id > 0",
    ],
)
def test_nor_is_history_changed_or_deleted_as_a_replica(shared_database_url: str, paid: None, statement: str) -> None:
    before = ledger.counts(shared_database_url)
    with pytest.raises(psycopg2.errors.RestrictViolation):
        changed_by(shared_database_url, statement, role="postgres", options=AS_REPLICA)
    assert ledger.counts(shared_database_url) == before


def test_as_a_replica_too_a_change_raises_the_version_and_a_deactivation_is_counted(database_url: str) -> None:
    changed_by(
        database_url,
        "UPDATE accounts SET amount = 5 WHERE id = 1",
        "UPDATE users SET is_active = FALSE WHERE id = 1",
        role="postgres",
        options=AS_REPLICA,
    )
    assert ledger.value(database_url, "SELECT version FROM accounts WHERE id = 1") == 1
    assert ledger.query(database_url, "SELECT version > 0, deactivations FROM users WHERE id = 1") == [(True, 1)]


# Migrations


def migrate(database_url: str) -> "subprocess.Popen[str]":
    """Starts a process that applies the migrations."""
    return subprocess.Popen(
        [sys.executable, "-c", MIGRATE, database_url],
        cwd=Path(migrations.__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def tables(database_url: str) -> set[str]:
    return {
        name for (name,) in ledger.query(database_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    }


def test_migrations_apply_in_order_and_once(empty_database_url: str) -> None:
    names = [file.stem for file in migrations.files()]
    assert names == sorted(names)
    assert migrations.apply(empty_database_url) == names
    assert migrations.apply(empty_database_url) == []
    assert [name for (name,) in ledger.query(empty_database_url, "SELECT name FROM migrations ORDER BY name")] == names


def test_the_role_that_migrates_owns_the_tables(empty_database_url: str) -> None:
    migrations.apply(empty_database_url)
    owners = ledger.query(empty_database_url, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
    assert owners == [(OWNER,)]


def test_several_processes_that_start_together_apply_them_once(empty_database_url: str) -> None:
    processes = [migrate(empty_database_url) for _ in range(4)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    applied = [name for output, _ in outputs for name in output.split()]
    assert applied == [file.stem for file in migrations.files()]
    assert ledger.count(empty_database_url, "currencies") == 3


@pytest.fixture
def obstacle(empty_database_url: str) -> Iterator[psycopg2.extensions.connection]:
    """A session whose uncommitted table stands in the way of the schema's last one: a migration stops in its middle."""
    connection = ledger.connect(empty_database_url)
    connection.autocommit = False
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE transfers ()")
    yield connection
    connection.close()


def wait_until_blocked(postgres: EmbeddedPostgres, database_url: str) -> None:
    name = psycopg2.extensions.parse_dsn(database_url)["dbname"]
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
    deadline = time.monotonic() + 20
    while ledger.value(administration_dsn(postgres), blocked, (name,)) == 0:
        assert time.monotonic() < deadline, "the migration never came to the obstacle"


def test_a_process_killed_in_the_middle_leaves_nothing_half_done(
    postgres: EmbeddedPostgres, empty_database_url: str, obstacle: psycopg2.extensions.connection
) -> None:
    process = migrate(empty_database_url)
    wait_until_blocked(postgres, empty_database_url)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    obstacle.rollback()
    assert migrations.apply(empty_database_url) == [file.stem for file in migrations.files()]
    assert ledger.count(empty_database_url, "currencies") == 3


def test_those_that_wait_behind_a_killed_one_apply_them(
    postgres: EmbeddedPostgres, empty_database_url: str, obstacle: psycopg2.extensions.connection
) -> None:
    killed = migrate(empty_database_url)
    wait_until_blocked(postgres, empty_database_url)
    waiting = [migrate(empty_database_url) for _ in range(2)]
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=20)
    obstacle.rollback()
    outputs = [process.communicate(timeout=60) for process in waiting]
    assert [process.returncode for process in waiting] == [0, 0], outputs
    assert "currencies" in tables(empty_database_url)
    assert ledger.count(empty_database_url, "currencies") == 3


def test_a_migration_that_fails_leaves_nothing_and_says_which(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0001_good.sql").write_text("CREATE TABLE good ()")
    (tmp_path / "0002_bad.sql").write_text("CREATE TABLE half (); SELECT 1/0")
    monkeypatch.setattr(migrations, "DIRECTORIES", (tmp_path,))
    with pytest.raises(Exception, match=r"^migration 0002_bad.sql failed: [^\n]*division by zero[^\n]*$"):
        migrations.apply(empty_database_url)
    assert tables(empty_database_url) == {"migrations", "good"}


def test_who_was_deactivated_before_that_was_counted_counts_as_once(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in migrations.files()[:4]:
        (tmp_path / file.name).write_text(file.read_text())
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "DIRECTORIES", (tmp_path,))
        migrations.apply(empty_database_url)
    ledger.query(
        empty_database_url,
        "INSERT INTO users (username, full_name, password_hash, is_active) VALUES ('a', '', '!', FALSE)",
    )
    migrations.apply(empty_database_url)
    counts = "SELECT username, deactivations FROM users ORDER BY id"
    assert ledger.query(empty_database_url, counts) == [("superuser", 0), ("a", 1)]
    for is_active in (True, False, False, True):
        ledger.query(empty_database_url, "UPDATE users SET is_active = %s WHERE id > 1", (is_active,))
    assert ledger.query(empty_database_url, counts) == [("superuser", 0), ("a", 2)]


def test_an_order_id_is_booked_once_even_by_hand(database_url: str) -> None:
    parameters = {"id": str(uuid4())}
    statement = (
        "INSERT INTO orders (id, user_id, fingerprint, status, accepted_at, posted_at)"
        " VALUES (%(id)s, 1, '', 'posted', now(), now())"
    )
    ledger.query(database_url, statement, parameters)
    with pytest.raises(psycopg2.errors.UniqueViolation):
        ledger.query(database_url, statement, parameters)
