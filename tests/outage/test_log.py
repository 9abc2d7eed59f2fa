"""The log names what failed, and never prints a row: hashes, comments and amounts are nobody's who reads logs."""

import asyncio
from pathlib import Path

import psycopg2
import pytest
from psycopg2.errors import CheckViolation

from aiopypay import migrations
from aiopypay.database import Database
from aiopypay.errors import Problem, StartError
from aiopypay.statements import fetch
from aiopypay.translation import one_line

from .caller import call
from .postgres import PostgresServer
from .shop import Shop
from .waiting import eventually

SECRET = "rosebud"
REFUSE_COMMENT = f"ALTER TABLE transfers ADD CONSTRAINT no_secret CHECK (comment !~ '{SECRET}')"
# A trigger whose failure quotes its row in the context.
TELL_TALE = """
CREATE FUNCTION tell_tale() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SELECT 1 / 0, %%L, %%L', NEW.password_hash, NEW.full_name);
    RETURN NEW;
END
$$;
CREATE TRIGGER tell_tale BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION tell_tale();
"""


class TestRows:
    async def test_a_row_that_is_refused_is_not_printed(self, shop: Shop) -> None:
        """Online it is one order's failure; at settling it is what settling meets."""
        shop.postgres.execute(REFUSE_COMMENT)
        online = await shop.pay("1.23", comment=f"{SECRET} online")
        bulk = await shop.send("each", [shop.transfer("1.23", comment=f"{SECRET} bulk"), shop.transfer("1")])
        await shop.take_database()
        await shop.accepted("1.23", comment=f"{SECRET} offline")
        await shop.bring_database()
        await eventually(lambda: shop.service.whole_log().count("no_secret") >= 3, 10, "all three have failed")

        assert online.status == 500
        assert [result["status"] for result in bulk.body] == [500, "posted"]
        log = shop.service.whole_log()
        assert "Traceback" in log
        assert 'violates check constraint "no_secret" (SQLSTATE 23514)' in log
        self._is_kept(log)

    async def test_nor_one_that_a_context_quotes(self, shop: Shop) -> None:
        shop.postgres.execute(TELL_TALE)
        form = {"username": "cleo", "password": SECRET, "full_name": SECRET}
        told = await call(shop.service.base_url, "POST", "/users", {}, form)

        assert told.status == 500
        log = shop.service.whole_log()
        assert "division by zero (SQLSTATE 22012)" in log
        self._is_kept(log)
        assert "argon2" not in log

    async def test_a_statement_that_is_cancelled_is_named_and_not_quoted(self, shop: Shop) -> None:
        lock = "LOCK TABLE transfers IN ACCESS EXCLUSIVE MODE"
        with shop.postgres.connected() as connection, connection.cursor() as cursor:
            cursor.execute(f"BEGIN; {lock}")
            paying = asyncio.create_task(shop.pay("1.23", comment=SECRET))
            await eventually(shop.postgres.waits_for_lock, 5, "the payment waits")
            await asyncio.to_thread(shop.postgres.cancel_backends)
            await paying

        log = shop.service.whole_log()
        assert "PostgreSQL cancelled a statement: canceling statement due to user request (SQLSTATE 57014)" in log
        self._is_kept(log)
        assert "CONTEXT" not in log

    def _is_kept(self, log: str) -> None:
        for part in (SECRET, "DETAIL", "CONTEXT", "Failing row", "1.23"):
            assert part not in log, log


class TestErrors:
    async def test_none_that_leaves_the_edge_has_a_row_in_it_or_in_what_led_to_it(
        self, postgres: PostgresServer
    ) -> None:
        database = Database(postgres.dsn, connections=1)
        with pytest.raises(Problem) as raised:
            await self._insert(database)
        database.close()

        error: BaseException | None = raised.value
        texts = []
        while error is not None:
            texts.append(str(error))
            error = error.__cause__ or error.__context__
        assert any("SQLSTATE 23514" in text for text in texts)
        assert not any(SECRET in text for text in texts)

    async def _insert(self, database: Database) -> None:
        async with database.transaction() as connection:
            await fetch(connection, "CREATE TEMPORARY TABLE kept (word TEXT CHECK (word = ''))")
            await fetch(connection, "INSERT INTO kept VALUES (%(word)s)", {"word": SECRET})

    def test_a_migration_that_fails_names_itself_and_no_row(
        self, empty_postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "0001_bad.sql").write_text(
            f"CREATE TABLE kept (word TEXT CHECK (word = '')); INSERT INTO kept VALUES ('{SECRET}')"
        )
        monkeypatch.setattr(migrations, "DIRECTORIES", (tmp_path,))
        with pytest.raises(StartError, match=r"0001_bad\.sql failed: .*SQLSTATE 23514") as raised:
            migrations.apply(empty_postgres.owner_dsn)
        assert SECRET not in str(raised.value)

    def test_one_that_only_has_text_has_one_line_of_it(self) -> None:
        lost = psycopg2.OperationalError(f"FATAL:  no\nDETAIL:  Failing row contains ({SECRET}).\nserver closed")
        assert one_line(lost) == "FATAL: no"
        assert one_line(CheckViolation()) == "CheckViolation"
        assert one_line(TimeoutError()) == "TimeoutError"
