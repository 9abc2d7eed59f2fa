"""The service works as a role that owns nothing: what keeps history as it is does not depend on the service's will."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import psycopg2
import psycopg2.errors
import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from aiopypay import migrations
from aiopypay.database import Database
from aiopypay.embedded import EmbeddedPostgres
from aiopypay.embedded.roles import OWNER, SERVICE
from aiopypay.errors import StartError
from aiopypay.ledger import Currency
from aiopypay.preparation import prepare_database
from aiopypay.settings import Settings
from aiopypay.store import change_log, installation, moments, orders, recreation
from aiopypay.store.accounts import AccountState
from aiopypay.store.moments import Moment
from aiopypay.store.schema import TABLES
from aiopypay.store.users import User
from tests import ledger
from tests.client import Service
from tests.cluster import administration_dsn
from tests.conftest import StartService

LAST_BEFORE_ROLES = "0008_departures"


def as_service(database_url: str, *statements: str, options: str = "") -> None:
    """Executes statements in one session of the service's role."""
    assert parse_dsn(database_url)["user"] == SERVICE
    connection = psycopg2.connect(make_dsn(database_url, options=options))
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    finally:
        connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE transfers DISABLE TRIGGER transfers_are_final",
        "ALTER TABLE orders DISABLE TRIGGER ALL",
        "ALTER TABLE accounts DISABLE TRIGGER accounts_mark_change",
        "DROP TRIGGER orders_are_final ON orders",
        "CREATE RULE nothing AS ON INSERT TO transfers DO INSTEAD NOTHING",
        "CREATE TRIGGER other BEFORE INSERT ON transfers FOR EACH ROW EXECUTE FUNCTION mark_change()",
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "DROP FUNCTION refuse_change() CASCADE",
        "SET session_replication_role = replica",
        "UPDATE transfers SET amount = amount + 1",
        "UPDATE transfers SET comment = '' WHERE FALSE",
        "DELETE FROM transfers",
        "TRUNCATE transfers",
        "UPDATE orders SET reason = 'x'",
        "DELETE FROM orders",
        "TRUNCATE orders CASCADE",
        "INSERT INTO orders SELECT * FROM orders ON CONFLICT (id) DO UPDATE SET status = 'refused'",
        "MERGE INTO transfers USING orders ON order_id = orders.id WHEN MATCHED THEN DELETE",
        """INSERT INTO transfers (order_id, kind, from_account_id, to_account_id, amount, comment, "timestamp")
        SELECT id, 'payment', 1, 2, 1, '', '2000-01-01' FROM orders""",
        "INSERT INTO accounts (user_id, currency_id, amount) VALUES (1, 'USD', 100)",
        "UPDATE accounts SET user_id = 1",
        "UPDATE accounts SET id = id + 1000000 WHERE id > 0",
        "UPDATE accounts SET version = 0",
        "DELETE FROM accounts",
        "TRUNCATE accounts CASCADE",
        "UPDATE users SET username = 'other'",
        "UPDATE users SET version = 0",
        "DELETE FROM users",
        "UPDATE currencies SET decimals = 0",
        "DELETE FROM currencies",
        "UPDATE installation SET id = gen_random_uuid()",
        "DELETE FROM moments",
        "INSERT INTO migrations (name) VALUES ('9999_never')",
        "DELETE FROM migrations",
        "TRUNCATE change_log",
        "DROP TABLE transfers CASCADE",
        "ALTER TABLE transfers ADD COLUMN other TEXT",
        "ALTER TABLE transfers OWNER TO aiopypay",
        "ALTER TABLE accounts DROP CONSTRAINT accounts_amount_not_negative",
        "CREATE TABLE other ()",
        "CREATE SCHEMA other",
        "SET ROLE aiopypay_owner",
        "ALTER ROLE aiopypay SUPERUSER",
        "DO $$ BEGIN EXECUTE format('DROP DATABASE %I', current_database()); END $$",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET jit = on', current_database()); END $$",
    ],
)
def test_the_service_cannot(shared_database_url: str, statement: str) -> None:
    before = ledger.counts(shared_database_url)
    with pytest.raises((psycopg2.errors.InsufficientPrivilege, psycopg2.errors.ActiveSqlTransaction)):
        as_service(shared_database_url, statement)
    assert ledger.counts(shared_database_url) == before


def test_nor_is_a_grant_of_its_own_worth_anything(shared_database_url: str) -> None:
    """PostgreSQL warns, and gives nothing."""
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        as_service(shared_database_url, "GRANT ALL ON transfers TO aiopypay", "DELETE FROM transfers")


def test_temporary_tables_do_not_stand_in_for_ours_where_references_are_checked(database_url: str) -> None:
    with pytest.raises(psycopg2.errors.ForeignKeyViolation):
        as_service(
            database_url,
            "CREATE TEMPORARY TABLE users (id BIGINT)",
            "INSERT INTO pg_temp.users VALUES (999)",
            "INSERT INTO orders (id, user_id, fingerprint, status, accepted_at, posted_at)"
            f" VALUES ('{uuid4()}', 999, '', 'posted', now(), now())",
        )


def test_each_table_is_among_those_that_the_service_reads(shared_database_url: str) -> None:
    """Whoever adds a table says in service_rights.sql, and in `TABLES`, what the service may do with it."""
    tables = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    readable = (
        "SELECT table_name::text FROM information_schema.table_privileges "
        f"WHERE grantee = '{SERVICE}' AND table_schema = 'public' AND privilege_type = 'SELECT' ORDER BY 1"
    )
    assert ledger.query(shared_database_url, tables) == [(name,) for name in TABLES]
    assert ledger.query(shared_database_url, readable) == [(name,) for name in TABLES]


def test_rights_that_were_added_by_hand_are_taken_away_at_the_next_start(database_url: str) -> None:
    ledger.query(
        database_url, f"GRANT ALL ON transfers, accounts TO {SERVICE}; GRANT CREATE ON SCHEMA public TO PUBLIC"
    )
    as_service(database_url, "CREATE TABLE other ()", "DROP TABLE other")
    assert migrations.apply(ledger.as_owner(database_url), SERVICE) == []
    for statement in ("TRUNCATE transfers", "UPDATE accounts SET version = 0", "CREATE TABLE other ()"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            as_service(database_url, statement)


def test_rights_that_are_there_already_are_not_written_again(database_url: str) -> None:
    """A server whose synchronous standby is gone confirms no write: the start has none to make."""
    row = "SELECT xmin::text FROM pg_class WHERE oid = 'transfers'::regclass"
    before = ledger.query(database_url, row)
    assert migrations.apply(ledger.as_owner(database_url), SERVICE) == []
    assert ledger.query(database_url, row) == before
    ledger.query(database_url, f"REVOKE SELECT ON transfers FROM {SERVICE}")
    assert migrations.apply(ledger.as_owner(database_url), SERVICE) == []
    as_service(database_url, "SELECT FROM transfers")


def test_where_nothing_is_outstanding_the_services_role_may_look(database_url: str) -> None:
    """So a service may run without knowing who migrates: `aiopypay migrate` is run by somebody else then."""
    assert migrations.apply(database_url) == []


async def test_health_tells_that_the_roles_are_separate(service: Service) -> None:
    assert (await service.get("/health")).json()["database_roles"] == "separate"


async def test_health_and_the_log_tell_where_one_role_does_all(
    start_service: StartService, database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    owner = Settings(database_url=ledger.as_owner(database_url), data_dir=tmp_path)
    await prepare_database(owner)
    assert "set APP_MIGRATION_URL" in caplog.text
    service = await start_service(owner)
    assert (await service.get("/health")).json()["database_roles"] == "one"


@pytest.fixture
def older_url(empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database as version 0.1 left it: of one role, the last migrations not applied yet, with a payment in it."""
    for file in migrations.files():
        if file.stem <= LAST_BEFORE_ROLES:
            (tmp_path / file.name).write_text(file.read_text())
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "DIRECTORIES", (tmp_path,))
        migrations.apply(empty_database_url)
    ledger.deposit(empty_database_url, 1, "100")
    return empty_database_url


async def test_an_older_database_is_served_by_a_new_role(
    older_url: str, start_service: StartService, tmp_path: Path
) -> None:
    settings = Settings(database_url=make_dsn(older_url, user=SERVICE), migration_url=older_url, data_dir=tmp_path)
    await prepare_database(settings)
    service = await start_service(settings)
    assert (await service.get("/health")).json()["database_roles"] == "separate"
    payer, payee = await service.register(), await service.register()
    ledger.deposit(older_url, payer.accounts["USD"], "100")
    (await payer.pay(payee, "10")).ok()
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        as_service(str(settings.database_url), "ALTER TABLE transfers DISABLE TRIGGER ALL")
    ledger.assert_ledger_balances(older_url)


# First starts that no waiting helps

# Nothing is written there: no start gets so far.
NEVER_MET = Path("/dev/null/never")


@pytest.fixture
def stranger(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A role that nobody has given any right."""
    name = f"stranger_{uuid4().hex}"
    ledger.query(administration_dsn(postgres), f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    yield name
    ledger.query(administration_dsn(postgres), f"DROP ROLE {name}")


async def refusal(database_url: str, migration_url: str | None = None) -> str:
    """Starts for the first time, which must fail at once; returns the line."""
    with pytest.raises(StartError) as refused:
        await prepare_database(Settings(database_url=database_url, migration_url=migration_url, data_dir=NEVER_MET))
    line = str(refused.value)
    assert line.isprintable()
    assert "did not answer" not in line
    return line


async def test_a_wrong_password_is_said_at_once(empty_database_url: str) -> None:
    line = await refusal(make_dsn(empty_database_url, password="wrong"))
    assert "password authentication failed" in line
    assert "check the user and the password in DATABASE_URL" in line
    assert "wrong" not in line


async def test_so_is_that_of_the_role_that_migrates(database_url: str) -> None:
    line = await refusal(database_url, migration_url=make_dsn(database_url, user=OWNER, password="wrong"))
    assert "in APP_MIGRATION_URL" in line


async def test_a_database_that_is_not_there_is_said_at_once(empty_database_url: str) -> None:
    line = await refusal(make_dsn(empty_database_url, dbname="nowhere"))
    assert 'database "nowhere" does not exist' in line
    assert "CREATE DATABASE" in line


async def test_a_role_that_may_make_no_tables_is_said_at_once(empty_database_url: str, stranger: str) -> None:
    line = await refusal(make_dsn(empty_database_url, user=stranger, password="secret"))
    assert "permission denied for schema public" in line
    assert "GRANT CREATE" in line


async def test_a_role_of_the_service_that_is_not_there_is_said_at_once(empty_database_url: str) -> None:
    service = make_dsn(empty_database_url, user="nobody")
    assert "CREATE ROLE" in await refusal(service, migration_url=empty_database_url)
    # As `aiopypay migrate` says it.
    with pytest.raises(StartError, match="CREATE ROLE nobody LOGIN"):
        migrations.apply(empty_database_url, "nobody")


async def test_a_server_that_is_only_read_is_said_at_once(postgres: EmbeddedPostgres, empty_database_url: str) -> None:
    """As a standby says it, too."""
    name = parse_dsn(empty_database_url)["dbname"]
    ledger.query(administration_dsn(postgres), f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    line = await refusal(empty_database_url)
    assert "read-only" in line
    assert "connect the primary" in line


async def test_two_urls_that_lead_to_two_databases_are_said_at_once(database_url: str, empty_database_url: str) -> None:
    other = make_dsn(empty_database_url, user=SERVICE)
    line = await refusal(other, migration_url=ledger.as_owner(database_url))
    assert "must lead to the same database" in line


# What the service does beside its routes


async def test_the_service_may_put_back_what_an_older_backup_lacks(database_url: str) -> None:
    """As `journal replay` does, and leaves the other nodes."""
    database = Database(database_url, connections=1)
    node_id, moment, now = uuid4(), Moment(1, uuid4()), datetime.now(UTC)
    user = User(40, "anna", "Anna", "!", is_admin=False, is_active=False, deactivations=2)
    pounds = Currency("GBP", "Pound", Decimal("0.01"), 2, commission_account_id=90, external_account_id=-9)
    try:
        async with database.transaction() as connection:
            await recreation.raise_sequences(connection, users=50, accounts=100, transfers=1000)
            await recreation.put_user_back(connection, user, 7, now)
            await recreation.renew_user(connection, user)
            assert await recreation.put_currencies_back(connection, [pounds]) == [pounds]
            account = AccountState(90, 40, "GBP", Decimal(0), 3, now, None)
            await recreation.put_account_back(connection, account)
            order_id = uuid4()
            assert await orders.claim_key(connection, order_id, 40, "key", b"content")
            await recreation.mark_opened(connection, order_id, 40, now)
        async with database.transaction() as connection:
            await installation.register(connection, node_id)
            await moments.replace_moment(connection, moments.Step(node_id, (), moment, is_first=True))
            await moments.replace_moment(connection, moments.Step(node_id, (moment,), Moment(2, uuid4())))
            assert (await moments.moment_of(connection, node_id)) is not None
            assert await installation.move(connection, node_id)
            await installation.remove(connection, node_id)
        ledger.query(database_url, "UPDATE change_log SET logged_at = now() - INTERVAL '2 days'")
        async with database.transaction() as connection:
            seen = (await change_log.look(connection, None, overlap=False)).snapshot
            assert await change_log.prune(connection, seen) > 0
    finally:
        database.close()
    assert ledger.query(database_url, "SELECT id, order_id IS NULL, version FROM accounts WHERE id = 90") == [
        (90, False, 4)
    ]
    assert ledger.query(database_url, "SELECT last_value FROM transfers_id_seq") == [(1000,)]
