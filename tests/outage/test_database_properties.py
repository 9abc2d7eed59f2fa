"""What the server, the database and the role say changes nothing of what our statements mean, or stops the node."""

import asyncio
import contextlib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from psycopg2.extensions import make_dsn

from aiopypay import migrations
from aiopypay.addresses import SESSION_SETTINGS
from aiopypay.database import Database
from aiopypay.embedded.roles import OWNER
from aiopypay.errors import DatabaseUnfit, StartError
from aiopypay.statements import fetch
from aiopypay.store.schema import TABLES, has_schema
from tests.ledger import assert_ledger_balances

from .caller import account_in, call
from .load import Person, credentials, register_people
from .postgres import PostgresServer
from .proxy import Proxy
from .service import NewService, ServiceProcess
from .shop import Shop

SQL_ASCII, UTF8 = 0, 6

# Each in a value that is not PostgreSQL's own, as server, database or role may have it.
HOSTILE = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "synchronous_commit": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "exit_on_error": "on",
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "off",
    "backslash_quote": "on",
    "escape_string_warning": "off",
    "TimeZone": "Asia/Kathmandu",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "quote_all_identifiers": "on",
    "xmloption": "document",
    "row_security": "off",
    "check_function_bodies": "off",
    "plan_cache_mode": "force_generic_plan",
    "client_min_messages": "debug1",
    "enable_indexscan": "off",
    "enable_bitmapscan": "off",
    "enable_nestloop": "off",
    "jit": "on",
    "jit_above_cost": "0",
}
COMMENTS = (
    "NULL",
    "null",
    "it's",
    "';--",
    "\\",
    r"a\nb \\ c\' \x41 \u0041",
    '{a,"b",NULL}',
    "E'x'",
    "%s %(ids)s %%",
    "02/03/2026",
    "tea\nfor\ttwo",
    "я" * 255,
    "‘quoted’ for 5 €",
)
# As a text and as a key it is what it is.
KEYS = ("NULL", "null", "it's", r"k\'1\n", '{a,"b"}', "%(id)s")


@contextlib.contextmanager
def hostile(postgres: PostgresServer, where: str) -> Iterator[None]:
    """Within, new sessions of the service's begin with HOSTILE, unless they say otherwise."""
    target = {"role": "ROLE aiopypay", "owner": f"ROLE {OWNER}", "database": f"DATABASE {postgres.database}"}[where]
    try:
        for name, value in HOSTILE.items():
            postgres.execute_elsewhere(f"ALTER {target} SET {name} = '{value}'")
        yield
    finally:
        postgres.execute_elsewhere(f"ALTER {target} RESET ALL")


async def settings_of(dsn: str) -> dict[str, str]:
    """The pinned settings, as a session of the edge has them."""
    database = Database(dsn, connections=1)
    try:
        async with database.reading() as connection:
            names = {"names": list(SESSION_SETTINGS)}
            rows = await fetch(connection, "SELECT name, current_setting(name) FROM unnest(%(names)s) AS name", names)
    finally:
        database.close()
    return dict(rows)


class TestSettings:
    @pytest.mark.parametrize("where", ["role", "database"])
    async def test_none_counts_but_ours(self, empty_postgres: PostgresServer, where: str) -> None:
        with hostile(empty_postgres, where):
            assert await settings_of(empty_postgres.dsn) == SESSION_SETTINGS

    async def test_those_in_the_database_url_do_not_count_either(self, postgres: PostgresServer) -> None:
        options = " ".join(f"-c {name}={value.replace(' ', '')}" for name, value in HOSTILE.items())
        dsn = make_dsn(postgres.dsn, options=f"{options} -c search_path=theirs", client_encoding="LATIN1")

        assert await settings_of(dsn) == SESSION_SETTINGS
        database = Database(dsn, connections=1)
        async with database.reading() as connection:
            # What is not ours to say is left as the operator has it.
            assert await fetch(connection, "SHOW search_path") == [("theirs",)]
        database.close()

    async def test_nor_those_of_the_environment(
        self, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGTZ", "Asia/Kathmandu")
        monkeypatch.setenv("PGDATESTYLE", "SQL, DMY")
        monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
        monkeypatch.setenv("PGOPTIONS", "-c array_nulls=off")

        assert await settings_of(postgres.dsn) == SESSION_SETTINGS

    def test_migrations_run_under_the_same_but_with_patience(
        self, empty_postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "0001_look.sql").write_text(
            "CREATE TABLE theirs.seen AS SELECT name, current_setting(name) AS value "
            f"FROM unnest(ARRAY{list(SESSION_SETTINGS)}) AS name;"
            "CREATE TABLE found_by_the_path ()"
        )
        monkeypatch.setattr(migrations, "DIRECTORIES", (tmp_path,))
        empty_postgres.execute(f"CREATE SCHEMA theirs AUTHORIZATION {OWNER}")
        with hostile(empty_postgres, "owner"):
            migrations.apply(make_dsn(empty_postgres.owner_dsn, options="-c search_path=theirs -c array_nulls=off"))

        seen = dict(empty_postgres.execute("SELECT name, value FROM theirs.seen"))
        assert seen == SESSION_SETTINGS | migrations.PATIENT
        assert empty_postgres.execute("SELECT to_regclass('theirs.found_by_the_path') IS NOT NULL") == [(True,)]

    async def test_payments_mean_the_same(self, empty_postgres: PostgresServer, new_service: NewService) -> None:
        """From the first start on: single ones, a bulk, retries under their keys, and what is settled."""
        with hostile(empty_postgres, "database"):
            async with Proxy(empty_postgres.port) as proxy:
                service = new_service(proxy.dsn(empty_postgres.dsn))
                service.start()
                await service.wait_ready()
                payer, payee = await register_people(service.base_url, ["null", "o.NULL"])
                await service.wait_filled()
                shop = Shop(empty_postgres, proxy, service, [payer, payee])
                online = [await shop.pay("1", key=f"on-{key}", comment=said) for key, said in _pairs()]
                bulk = await shop.send("each", [shop.transfer("1", comment=said) for said in COMMENTS], key=KEYS[3])
                misused = await shop.pay("2", key="on-NULL0", comment="NULL")
                await shop.take_database()
                offline = [await shop.pay("1", key=f"off-{key}", comment=said) for key, said in _pairs()]
                await shop.bring_database()
                await shop.is_online()
                again = [
                    await shop.pay("1", key=f"{when}-{key}", comment=said)
                    for when in ("on", "off")
                    for key, said in _pairs()
                ]
                shown = await history(service, payer)

        assert [told.status for told in online] == [200] * len(COMMENTS)
        assert (bulk.status, {receipt["status"] for receipt in bulk.body}) == (200, {"posted"})
        assert (misused.status, misused.problem) == (422, "idempotency-key-reused")
        assert [told.status for told in offline] == [202] * len(COMMENTS)
        assert [told.body["order_id"] for told in again] == [told.body["order_id"] for told in online + offline]
        assert {told.status for told in again} == {200}
        assert shown == [*COMMENTS] * 3
        # 39 payments of 1.00, each with its commission.
        assert (await settled_balance(empty_postgres, payer)) == 300 - 39 * Decimal("1.01")
        assert_ledger_balances(empty_postgres.dsn)

    async def test_triggers_that_are_switched_off_stop_the_start(
        self, migrated_postgres: PostgresServer, new_service: NewService
    ) -> None:
        name = migrated_postgres.database
        migrated_postgres.execute_elsewhere(f"ALTER DATABASE {name} SET session_replication_role = replica")

        refusal = await refused_start(new_service(migrated_postgres.dsn))

        assert "RESET session_replication_role" in refusal

    async def test_names_know_no_locale(self, postgres: PostgresServer, new_service: NewService) -> None:
        """In Turkish the small form of I is no ASCII letter."""
        if not postgres.execute("SELECT 1 FROM pg_collation WHERE collprovider = 'i' LIMIT 1"):
            pytest.skip("PostgreSQL has no ICU")
        postgres.new_database()
        postgres.execute_elsewhere(f"DROP DATABASE {postgres.database}")
        postgres.execute_elsewhere(
            f"CREATE DATABASE {postgres.database} OWNER {OWNER} TEMPLATE template0 "
            "ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR'"
        )
        service = new_service(postgres.dsn)
        service.start()
        await service.wait_ready()
        await register_people(service.base_url, ["ili"])
        form = {"username": "ILI", "password": "password of ILI"}
        taken = await call(service.base_url, "POST", "/users", {}, form)
        entered = await call(service.base_url, "GET", "/api/users/me", credentials("ILI", "password of ili"))

        assert (taken.status, entered.status) == (409, 200)
        # Not even the id of who is turned away is used up.
        assert postgres.execute("SELECT last_value FROM users_id_seq") == [(2,)]


def _pairs() -> Iterator[tuple[str, str]]:
    return ((f"{KEYS[number % len(KEYS)]}{number}", comment) for number, comment in enumerate(COMMENTS))


async def history(service: ServiceProcess, person: Person) -> list[str]:
    """The comments of the person's payments, oldest first."""
    told = await call(service.base_url, "GET", f"/users/{person.id}/transfers?sort=asc&limit=1000", person.headers)
    assert told.status == 200
    return [row["comment"] for row in told.body if row["amount"] == 1]


async def settled_balance(postgres: PostgresServer, person: Person) -> Decimal:
    """What the person's account holds in the database."""
    [(amount,)] = postgres.execute("SELECT amount FROM accounts WHERE id = %s", account_in(person, "USD"))
    return Decimal(amount)


async def refused_start(service: ServiceProcess) -> str:
    """The one line with which the service refuses to start."""
    service.start()
    assert await service.wait_exit() == 1, service.log()
    [line] = [line for line in service.whole_log().splitlines() if line.startswith("aiopypay: ")]
    assert "Traceback" not in service.whole_log()
    return line


class TestSchemas:
    def test_all_tables_are_looked_for(self, migrated_postgres: PostgresServer) -> None:
        rows = migrated_postgres.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        assert [name for (name,) in rows] == [*TABLES]

    async def test_one_of_the_operators_own_is_fine(self, empty_postgres: PostgresServer) -> None:
        empty_postgres.execute(f"CREATE SCHEMA theirs AUTHORIZATION {OWNER}")
        dsn = make_dsn(empty_postgres.owner_dsn, options="-c search_path=theirs,public")
        database = Database(dsn, connections=1)
        async with database.reading() as connection:
            assert not await has_schema(connection)
            await asyncio.to_thread(migrations.apply, dsn)
            assert await has_schema(connection)
        database.close()

    async def test_tables_of_another_schema_in_front_stop_the_start(
        self, migrated_postgres: PostgresServer, new_service: NewService
    ) -> None:
        """The search_path begins with the schema that bears the role's name: somebody else's accounts are there."""
        migrated_postgres.execute("CREATE SCHEMA aiopypay AUTHORIZATION aiopypay")
        migrated_postgres.execute("CREATE TABLE aiopypay.accounts (LIKE public.accounts INCLUDING ALL)")

        refusal = await refused_start(new_service(migrated_postgres.dsn))

        assert "finds accounts in schema aiopypay" in refusal
        assert "search_path" in refusal

    async def test_and_are_waited_for_where_they_appear_in_an_outage(self, shop: Shop) -> None:
        await shop.take_database()
        accepted = await shop.accepted("1")
        shop.postgres.execute("CREATE SCHEMA aiopypay AUTHORIZATION aiopypay")
        shop.postgres.execute("CREATE TABLE aiopypay.orders (LIKE public.orders INCLUDING ALL)")
        shop.postgres.execute("ALTER TABLE aiopypay.orders OWNER TO aiopypay")
        await shop.bring_database()
        await shop.waits_for("finds orders in schema aiopypay")
        assert shop.postgres.execute("SELECT count(*) FROM aiopypay.orders") == [(0,)]
        shop.postgres.execute("DROP SCHEMA aiopypay CASCADE")
        await shop.is_online()

        assert (await shop.order(accepted))["status"] == "posted"


@pytest.fixture
def strange_postgres(postgres: PostgresServer) -> PostgresServer:
    """The cluster, with a database in SQL_ASCII for this test."""
    postgres.new_database()
    name = postgres.database
    postgres.execute_elsewhere(f"DROP DATABASE {name}")
    postgres.execute_elsewhere(f"CREATE DATABASE {name} OWNER {OWNER} ENCODING 'SQL_ASCII' TEMPLATE template0")
    return postgres


class TestEncodings:
    async def test_another_than_utf8_stops_the_first_start(
        self, strange_postgres: PostgresServer, new_service: NewService
    ) -> None:
        service = new_service(strange_postgres.dsn)

        refusal = await refused_start(service)

        assert "encoding is SQL_ASCII" in refusal
        assert "ENCODING 'UTF8' TEMPLATE template0" in refusal
        migrating = await asyncio.to_thread(service.run, "migrate")
        assert (migrating.returncode, migrating.stdout) == (1, "")
        assert refusal in migrating.stderr
        # Nothing was made there.
        assert strange_postgres.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]

    async def test_no_session_of_the_edge_or_of_migrations_uses_it(self, strange_postgres: PostgresServer) -> None:
        database = Database(strange_postgres.dsn, connections=1)
        with pytest.raises(DatabaseUnfit) as unfit:
            async with database.transaction():
                raise AssertionError
        # Clients are told no more than that it is away.
        assert "SQL_ASCII" not in unfit.value.detail
        assert "SQL_ASCII" in unfit.value.reason
        with pytest.raises(StartError, match="SQL_ASCII"):
            migrations.apply(strange_postgres.owner_dsn)
        database.close()

    async def test_one_first_seen_after_the_start_is_waited_for(self, shop: Shop) -> None:
        """In SQL_ASCII 200 letters would be 400, too many for a comment: accepted, and then refused."""
        letters = "я" * 200
        await shop.take_database()
        await shop.restart()
        accepted = await shop.accepted("1", comment=letters)
        self._encode(shop, SQL_ASCII)
        await shop.bring_database()
        await shop.waits_for("encoding is SQL_ASCII")
        assert (await shop.order(accepted))["status"] == "pending"
        assert (await shop.pay("1", comment=letters)).status == 202
        self._encode(shop, UTF8)
        await shop.is_online()

        assert (await shop.order(accepted))["status"] == "posted"
        assert (await shop.pay("1", comment=letters)).status == 200

    async def test_it_stops_the_start_of_a_node_that_has_a_journal(self, shop: Shop) -> None:
        await shop.take_database()
        accepted = await shop.accepted("1")
        shop.service.kill()
        self._encode(shop, SQL_ASCII)
        await shop.bring_database()
        assert "SQL_ASCII" in await refused_start(shop.service)
        self._encode(shop, UTF8)
        shop.service.start()
        await shop.service.wait_ready()
        await shop.is_online()

        assert (await shop.order(accepted))["status"] == "posted"

    def _encode(self, shop: Shop, encoding: int) -> None:
        """As if the same rows had been restored into a database of another encoding."""
        shop.postgres.execute(
            "UPDATE pg_database SET encoding = %s WHERE datname = %s", encoding, shop.postgres.database
        )
