"""The way back: what is accepted is booked in its order; what PostgreSQL does not take is told, and waited for."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import pytest

from .caller import account_in, call, order, pay
from .load import Person
from .postgres import PostgresServer
from .service import NewService
from .shop import REMOVE_TRAP, SET_TRAP, SETTLING_SECONDS, TRAP, Shop
from .site import make_site
from .waiting import Stopwatch, eventually

TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"


async def test_it_ends_under_constant_load_and_keeps_the_order(
    empty_postgres: PostgresServer, new_service: NewService, seed: int, report: Callable[[str], None]
) -> None:
    service = new_service(empty_postgres.dsn)
    service.start()
    site = await make_site(empty_postgres, service, seed, clients=32)
    async with site.load.running():
        await site.take_database()
        await site.paid(202, times=1500)
        pending = (await service.health())["journal"]["pending"]
        watch = Stopwatch()
        await site.bring_database()
        await service.wait_mode("online")
        settled = watch.seconds
        await site.paid(200)
    await site.finish()
    report(f"settling under load, seed {seed}: {pending} entries and what came after in {settled:.2f} s")


class TestRefusals:
    """What PostgreSQL does not take though the rule does: one order, or one group, which the operator sees to."""

    @pytest.mark.parametrize("sqlstate", ["23514", "22003", "P0001"])
    async def test_an_order_that_postgresql_refuses_is_waited_for_until_it_is_repaired(
        self, shop: Shop, sqlstate: str
    ) -> None:
        await shop.take_database()
        before = await shop.accepted("1")
        trapped = await shop.accepted("10", comment=TRAP)
        shop.postgres.execute(SET_TRAP.format(sqlstate=sqlstate))
        await shop.bring_database()
        await shop.waits_for(f"PostgreSQL rejects entry 2 of the journal (SQLSTATE {sqlstate})")
        # Payments go on meanwhile, behind it.
        after = await shop.accepted("2")
        assert [(await shop.order(one))["status"] for one in (before, trapped)] == ["posted", "pending"]
        assert await shop.balance() == Decimal("286.87")
        shop.postgres.execute(REMOVE_TRAP)
        await shop.is_online()

        shown = [(await shop.order(one))["status"] for one in (before, trapped, after)]
        assert shown == ["posted", "posted", "posted"]
        assert (await shop.service.health())["refused_at_settling"] == 0

    async def test_what_spends_its_money_waits_with_it(self, shop: Shop) -> None:
        """Refused by itself, it would leave a payment behind it without cover."""
        await shop.take_database()
        await shop.pay("290", comment=TRAP)
        bert, usd = shop.bert, account_in(shop.bert, "USD")
        spent = await pay(shop.service.base_url, bert, usd, shop.from_id, "580")
        assert spent.status == 202
        shop.postgres.execute(SET_TRAP.format(sqlstate="22021"))
        await shop.bring_database()
        await shop.waits_for("22021")
        shop.postgres.execute(REMOVE_TRAP)
        await shop.is_online()

        assert (await order(shop.service.base_url, bert, spent.body["order_id"])).body["status"] == "posted"
        assert (await shop.service.health())["refused_at_settling"] == 0

    async def test_the_operator_refuses_it(self, shop: Shop) -> None:
        await shop.take_database()
        before = await shop.accepted("1", key="before")
        refused = await shop.accepted("10", key="refused", comment=TRAP)
        after = await shop.accepted("2", key="after")
        shop.postgres.execute(SET_TRAP.format(sqlstate="23514"))
        await shop.bring_database()
        assert await shop.refuse("23514", "the trap") == "Entry 2 is refused.\n"
        await shop.is_online()

        assert [(await shop.order(one))["status"] for one in (before, after)] == ["posted", "posted"]
        shown = await shop.order(refused)
        assert (shown["status"], shown["posted_at"], shown["transfers"]) == ("refused", None, [])
        assert shown["reason"] == "refused by the operator: the trap"
        again = await shop.pay("10", key="refused", comment=TRAP)
        assert (again.status, again.problem) == (409, "order-refused")
        assert (again.body["order_id"], again.body["reason"]) == (refused, shown["reason"])
        assert again.headers["Location"].endswith(f"/orders/{refused}")
        # Its money is given back.
        assert await shop.balance() == Decimal("296.97")
        assert (await shop.service.health())["refused_at_settling"] == 1
        await shop.take_database()
        assert await shop.balance() == Decimal("296.97")
        offline = await shop.pay("10", key="refused", comment=TRAP)
        assert (offline.status, offline.body["order_id"], offline.body["reason"]) == (409, refused, shown["reason"])
        assert offline.headers["Location"] == again.headers["Location"]
        await shop.bring_database()
        await shop.is_online()

    async def test_the_operator_refuses_nothing_but_what_is_waited_for(self, shop: Shop) -> None:
        assert "Nothing is refused." in await self._not_granted(shop, "1")
        await shop.take_database()
        await shop.accepted("1", comment=TRAP)
        behind = await shop.accepted("2")
        assert "Nothing is settled at this moment" in await self._not_granted(shop, "1")
        shop.postgres.execute(SET_TRAP.format(sqlstate="23514"))
        await shop.bring_database()
        await shop.waits_for("23514")
        assert "does not wait for entry 2" in await self._not_granted(shop, "2")
        assert "REASON" in await self._not_granted(shop, "1", "two\nlines")
        await shop.service.terminate()
        assert "the service does not run: start it" in await self._not_granted(shop, "1")
        shop.service.start()
        await shop.service.wait_ready()
        await shop.refuse("23514", "after a restart")
        await shop.is_online()
        assert (await shop.order(behind))["status"] == "posted"

    async def test_what_a_failure_of_the_database_stops_is_not_for_the_operator_to_refuse(self, shop: Shop) -> None:
        await shop.take_database()
        await shop.accepted("1", comment=TRAP)
        shop.postgres.execute(SET_TRAP.format(sqlstate="42501"))
        await shop.bring_database()
        await shop.waits_for("PostgreSQL rejects entry 1 of the journal (SQLSTATE 42501)")
        assert "refuse" not in (await shop.service.health())["settling_waits_for"]
        assert "does not wait for entry 1" in await self._not_granted(shop, "1")
        shop.postgres.execute(REMOVE_TRAP)
        await shop.is_online()

    async def _not_granted(self, shop: Shop, sequence: str, reason: str = "a reason") -> str:
        ended = await asyncio.to_thread(shop.service.run, "journal", "refuse", sequence, reason)
        assert ended.returncode == 1, ended.stdout
        return ended.stderr


class TestOtherDatabases:
    async def test_a_missing_table_is_waited_for(self, shop: Shop) -> None:
        await shop.take_database()
        accepted = await shop.accepted("1")
        shop.postgres.execute("ALTER TABLE transfers RENAME TO elsewhere")
        await shop.bring_database()
        await shop.waits_for("42P01")
        shop.postgres.execute("ALTER TABLE elsewhere RENAME TO transfers")
        await shop.is_online()

        assert (await shop.order(accepted))["status"] == "posted"

    async def test_a_read_only_database_is_waited_for(self, shop: Shop) -> None:
        await shop.take_database()
        accepted = await shop.accepted("1")
        shop.postgres.execute(f"ALTER DATABASE {shop.postgres.database} SET default_transaction_read_only = on")
        await shop.bring_database()
        await shop.waits_for("read-only")
        assert (await shop.pay("1")).status == 202
        shop.postgres.execute_elsewhere(f"ALTER DATABASE {shop.postgres.database} RESET default_transaction_read_only")
        await shop.is_online()

        assert (await shop.order(accepted))["status"] == "posted"

    @pytest.mark.parametrize("kind", ["empty", "foreign"])
    async def test_another_database_is_not_taken_for_ours(self, shop: Shop, new_service: NewService, kind: str) -> None:
        """The operator has put the wrong database in place: nothing is written to it, and the journal is kept."""
        await shop.take_database()
        accepted = await shop.accepted("1")
        async with _another_database(shop, new_service, kind):
            before = _content(shop)
            await shop.bring_database()
            await shop.waits_for("installation" if kind == "foreign" else "42P01")
            # What comes back may be right after all; what is known to be wrong stops the node until it is right.
            assert (await shop.pay("1")).status == (503 if kind == "foreign" else 202)
            assert _content(shop) == before
            await shop.take_database()
        await shop.bring_database()
        await shop.is_online()

        assert (await shop.order(accepted))["status"] == "posted"


@contextlib.asynccontextmanager
async def _another_database(shop: Shop, new_service: NewService, kind: str) -> AsyncIterator[None]:
    """An empty database, or another service's, in place of ours."""
    ours = shop.postgres.database
    shop.postgres.execute_elsewhere(f"ALTER DATABASE {ours} RENAME TO {ours}_aside")
    shop.postgres.execute_elsewhere(f"CREATE DATABASE {ours} OWNER aiopypay_owner")
    try:
        if kind == "foreign":
            stranger = new_service(shop.postgres.dsn)
            stranger.start()
            await stranger.wait_ready()
            await stranger.terminate()
        yield
    finally:
        shop.postgres.execute_elsewhere(f"DROP DATABASE {ours} WITH (FORCE)")
        shop.postgres.execute_elsewhere(f"ALTER DATABASE {ours}_aside RENAME TO {ours}")


def _content(shop: Shop) -> list[tuple[Any, ...]]:
    tables = [name for (name,) in shop.postgres.execute(TABLES)]
    return [(name, *shop.postgres.execute(f"SELECT count(*) FROM {name}")) for name in tables]


class TestStartOnAnotherDatabase:
    """The operator starts a node that has a journal on a database that is not its own."""

    @pytest.mark.parametrize("kind", ["empty", "foreign"])
    async def test_it_waits_for_its_own_and_writes_nothing(
        self, shop: Shop, new_service: NewService, kind: str
    ) -> None:
        await shop.take_database()
        accepted = await shop.accepted("1")
        shop.service.kill()
        await shop.bring_database()
        async with _another_database(shop, new_service, kind):
            before = _content(shop)
            shop.service.start()
            await shop.service.wait_ready()
            await shop.waits_for("installation" if kind == "foreign" else "42P01")
            assert _content(shop) == before
            await shop.take_database()
        await shop.bring_database()
        await shop.is_online()

        assert (await shop.order(accepted))["status"] == "posted"


class TestRates:
    async def test_the_rate_of_acceptance_counts(self, shop: Shop) -> None:
        await shop.take_database()
        accepted = await shop.accepted("100")
        shop.postgres.execute("UPDATE currencies SET commission = 0.5 WHERE id = 'USD'")
        await shop.bring_database()
        await shop.is_online()

        assert [row["amount"] for row in (await shop.order(accepted))["transfers"]] == [Decimal(100), Decimal(1)]
        assert (await shop.pay("10")).body["transfers"][1]["amount"] == Decimal(5)


class TestCaps:
    @pytest.fixture
    def settings(self) -> dict[str, str]:
        """All that may be bounded."""
        return {
            "APP_OFFLINE_MAX_AMOUNT": "20",
            "APP_OFFLINE_MAX_DEBIT": "45",
            "APP_OFFLINE_MAX_ORDERS": "4",
        }

    async def test_each_has_its_own_problem(self, shop: Shop) -> None:
        assert (await shop.pay("21", key="online")).status == 200
        await shop.take_database()
        await self._is_refused(shop, "20.01", "offline-amount-cap")
        await shop.accepted("20", key="first")
        await shop.accepted("20", key="second")
        # Commission counts: 45 - 40.40.
        await self._is_refused(shop, "4.60", "offline-debit-cap")
        await shop.accepted("4.55")
        await pay(shop.service.base_url, shop.bert, account_in(shop.bert, "USD"), shop.from_id, "1")
        await self._is_refused(shop, "0.01", "offline-orders-cap", payer=shop.bert)
        # A retry is no new order.
        assert (await shop.pay("20", key="second")).status == 202
        assert (await shop.pay("21", key="online")).status == 200
        # What is not covered is 402, whatever the caps say.
        assert (await shop.pay("5000")).status == 402
        await shop.bring_database()
        await shop.is_online()
        # The next outage begins anew.
        await shop.take_database()
        await shop.accepted("20")
        await shop.bring_database()
        await shop.is_online()

    async def _is_refused(self, shop: Shop, amount: str, problem: str, payer: Person | None = None) -> None:
        payer = payer or shop.anna
        payee = shop.bert if payer is shop.anna else shop.anna
        told = await pay(shop.service.base_url, payer, account_in(payer, "USD"), account_in(payee, "USD"), amount)
        assert (told.status, told.problem) == (503, problem)
        assert int(told.headers["Retry-After"]) > 0


class TestJournalCommand:
    async def test_it_lists_while_the_service_runs_and_when_it_is_stopped(self, shop: Shop) -> None:
        await shop.take_database()
        refused = await shop.accepted("10", comment=TRAP)
        posted = await shop.accepted("1")
        shop.postgres.execute(SET_TRAP.format(sqlstate="23514"))
        await shop.bring_database()
        await shop.refuse("23514", "the trap")
        await shop.is_online()
        await shop.take_database()
        pending = await shop.accepted("2.50")
        expected = {refused: "refused", posted: "posted", pending: "pending"}

        assert await self._listed(shop) == expected
        assert await self._listed(shop, "--state", "refused") == {refused: "refused"}
        assert "3 entries." in await shop.service.operate("journal")
        await shop.service.terminate()
        assert await self._listed(shop) == expected
        lines = (await shop.service.operate("journal", "--json")).splitlines()
        assert [json.loads(line, parse_float=Decimal)["amount"] for line in lines] == [10, 1, Decimal("2.50")]
        await shop.bring_database()

    async def _listed(self, shop: Shop, *options: str) -> dict[str, str]:
        lines = (await shop.service.operate("journal", "--json", *options)).splitlines()
        return {line["order_id"]: line["state"] for line in map(json.loads, lines)}


class TestKeys:
    async def test_what_was_booked_before_gets_its_original_answer(self, shop: Shop) -> None:
        original = await shop.pay("5", key="booked")
        await shop.take_database()
        again = await shop.pay("5", key="booked")

        assert (original.status, again.status, again.body) == (200, 200, original.body)
        assert again.headers["Location"] == original.headers["Location"]
        assert (await shop.pay("6", key="booked")).status == 422
        assert await shop.balance() == Decimal("294.95")
        await shop.bring_database()

    async def test_a_key_is_one_order_over_the_outage(self, shop: Shop) -> None:
        await shop.take_database()
        first = await shop.pay("5", key="offline")
        assert (await shop.pay("5", key="offline")).body == first.body
        assert (await shop.pay("6", key="offline")).status == 422
        await shop.restart()
        assert (await shop.pay("5", key="offline")).body == first.body
        await shop.bring_database()
        await shop.is_online()
        posted = await shop.pay("5", key="offline")

        assert (posted.status, posted.body["order_id"]) == (200, first.body["order_id"])
        assert (await shop.pay("6", key="offline")).status == 422
        assert await shop.balance() == Decimal("294.95")

    async def test_a_key_of_an_account_s_opening_is_taken(self, shop: Shop) -> None:
        opened = await call(
            shop.service.base_url,
            "POST",
            f"/users/{shop.anna.id}/accounts/USD",
            shop.anna.headers | {"Idempotency-Key": "opening"},
        )
        assert opened.status == 200
        await shop.service.wait_filled()
        await shop.take_database()

        assert (await shop.pay("5", key="opening")).status == 422
        assert (await shop.pay("5", key="another")).status == 202
        await shop.bring_database()
        await shop.is_online()

    async def test_a_refusal_burns_no_key(self, shop: Shop) -> None:
        await shop.take_database()
        assert (await shop.pay("5000", key="again")).status == 402
        assert (await shop.pay("5", key="again")).status == 202
        await shop.bring_database()
        await shop.is_online()
        assert (await shop.pay("5", key="again")).status == 200


class TestKeysOfOtherNodes:
    """A second node may have booked what comes under a key: the first one cannot tell."""

    @pytest.fixture
    def settings(self) -> dict[str, str]:
        """What several nodes must have."""
        return {"APP_OFFLINE_MAX_DEBIT": "1000"}

    async def test_what_is_told_follows_one_order_and_nobody_spends_on_a_guess(self, shop: Shop) -> None:
        shop.postgres.execute("INSERT INTO nodes (id) VALUES (gen_random_uuid())")
        await shop.service.terminate()
        shop.service.start()
        await shop.service.wait_ready()
        await shop.service.wait_filled()
        await shop.take_database()
        for key, expected in (("one", 350), ("two", 400)):
            assert await self._deposited(shop, key) == expected
            assert await shop.balance() == expected
        guess = await shop.pay("350")
        assert (guess.status, guess.problem) == (503, "not-known-here")
        missing = await shop.pay("400")
        assert (missing.status, missing.body["detail"].partition(";")[0]) == (
            402,
            f"Account {shop.from_id} holds 400.00 USD",
        )
        assert (await shop.pay("100")).body["balance"] == await shop.balance() == Decimal(299)
        await shop.bring_database()
        await shop.is_online()
        assert await shop.balance() == Decimal(299)
        assert (await shop.service.health())["refused_at_settling"] == 0

    async def _deposited(self, shop: Shop, key: str) -> Decimal:
        headers = shop.anna.headers | {"Idempotency-Key": key}
        form = {"user_id": str(shop.anna.id), "value": "50"}
        told = await call(shop.service.base_url, "POST", "/api/balances", headers, form)
        assert told.status == 201, told
        return Decimal(told.body["detail"]["balance"])


async def test_a_402_names_the_expected_balance_and_reads_show_it(shop: Shop) -> None:
    await shop.take_database()
    told = await shop.pay("100")
    assert (told.body["status"], told.body["balance"]) == ("pending", Decimal("199.00"))
    assert [row["id"] for row in told.body["transfers"]] == [None, None]
    assert told.body["detail"].startswith("Service partially down.")
    assert told.headers["Location"] == f"/users/{shop.anna.id}/orders/{told.body['order_id']}"
    assert (await shop.pay("199")).status == 402
    assert await shop.balance() == Decimal("199.00")
    assert (await shop.order(told.body["order_id"]))["status"] == "pending"
    await shop.bring_database()
    await eventually(lambda: _is_posted(shop, told.body["order_id"]), SETTLING_SECONDS, "the order is posted")


async def _is_posted(shop: Shop, order_id: str) -> bool:
    return bool((await shop.order(order_id))["status"] == "posted")
