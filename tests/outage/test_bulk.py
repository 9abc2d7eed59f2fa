"""Bulks without the database, in doubt, and at settling: each transfer has one outcome, and what is one stays one."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from aiopypay.transfer_orders import TransferForm, content_of

from .caller import Told, account_in
from .proxy import Cut
from .shop import SET_TRAP, TRAP, Shop

# What is in the way of one payment, of which the database knows and the node does not.
SPEND = """
WITH spent AS (
    INSERT INTO orders (id, user_id, fingerprint, status, accepted_at, posted_at)
    SELECT gen_random_uuid(), user_id, '', 'posted', now(), now() FROM accounts WHERE id = %(account)s
    RETURNING id
), booked AS (
    INSERT INTO transfers (order_id, kind, from_account_id, to_account_id, amount, comment)
    SELECT id, 'withdrawal', %(account)s, -1, %(amount)s, 'Elsewhere' FROM spent
)
UPDATE accounts SET amount = amount + CASE WHEN id = -1 THEN %(amount)s ELSE -%(amount)s END
WHERE id IN (-1, %(account)s)
"""
REFUSE = """
INSERT INTO orders (id, user_id, idempotency_key, fingerprint, status, accepted_at, reason)
VALUES (%s, %s, 'one', '', 'refused', now(), 'elsewhere')
"""
# Transfers that were booked in one transaction have one time.
MOMENTS = "SELECT count(*), count(DISTINCT posted_at) FROM orders WHERE id = ANY(%s::uuid[]) AND status = 'posted'"

# So slow that the usual time is enough for 400 orders, and not for 1000.
SLOW = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(0.0003);
    RETURN NEW;
END
$$;
CREATE TRIGGER slow BEFORE INSERT ON transfers FOR EACH ROW EXECUTE FUNCTION slow();
"""
# Another node, whose database is there, books the payment of 10.00 under the key "one".
BOOK_ELSEWHERE = """
WITH elsewhere AS (
    INSERT INTO orders (id, user_id, idempotency_key, fingerprint, status, accepted_at, posted_at, balance)
    SELECT %(order)s, user_id, 'one', %(content)s, 'posted', now(), now(), amount - 10.10
    FROM accounts WHERE id = %(payer)s
    RETURNING id
), booked AS (
    INSERT INTO transfers (order_id, kind, from_account_id, to_account_id, amount, comment)
    SELECT elsewhere.id, kind, %(payer)s, payee, amount, ''
    FROM elsewhere, (VALUES ('payment', %(payee)s, 10), ('commission', 1, 0.10)) AS transfer (kind, payee, amount)
)
UPDATE accounts SET amount = amount + CASE id WHEN %(payer)s THEN -10.10 WHEN 1 THEN 0.10 ELSE 10 END
WHERE id IN (1, %(payer)s, %(payee)s)
"""


def statuses(told: Told) -> list[Any]:
    """What became of each."""
    assert told.status == 200, told
    return [result["status"] for result in told.body]


def orders(told: Told) -> list[str]:
    """The orders of what was booked or accepted."""
    return [result["order_id"] for result in told.body if "order_id" in result]


def sums_to_zero(shop: Shop) -> bool:
    """Whether nothing was made or lost."""
    return shop.postgres.execute("SELECT DISTINCT sum(amount) FROM accounts GROUP BY currency_id") == [(Decimal(0),)]


class TestEach:
    async def test_a_bulk_that_is_too_large_for_a_slow_database_is_taken_apart(self, shop: Shop) -> None:
        shop.postgres.execute(SLOW)
        assert statuses(await shop.send("each", [shop.transfer("0.01")] * 1000)) == ["posted"] * 1000
        assert sums_to_zero(shop)

    async def test_each_is_accepted_or_refused_and_settled_once(self, shop: Shop) -> None:
        await shop.take_database()
        transfers = [
            shop.transfer("100"),
            shop.transfer("250"),
            shop.transfer("x"),
            shop.transfer("50", key="own"),
            shop.transfer("0.50"),
        ]
        told = await shop.send("each", transfers, key="bulk")
        assert statuses(told) == ["pending", 402, 400, "pending", "pending"]
        assert [result["balance"] for result in told.body if "balance" in result] == [
            Decimal("199.00"),
            Decimal("148.50"),
            Decimal("147.99"),
        ]
        assert (await shop.send("each", transfers, key="bulk")).body[0] == told.body[0]
        await shop.restart()
        again = await shop.send("each", transfers, key="bulk")
        assert (statuses(again), orders(again)) == (statuses(told), orders(told))
        assert (await shop.pay("50", key="own")).body["order_id"] == told.body[3]["order_id"]
        await shop.bring_database()
        await shop.is_online()

        posted = await shop.send("each", transfers, key="bulk")
        assert statuses(posted) == ["posted", 402, 400, "posted", "posted"]
        assert orders(posted) == orders(told)
        assert await shop.balance() == Decimal("147.99")
        assert sums_to_zero(shop)

    async def test_what_was_booked_before_the_outage_is_found(self, shop: Shop) -> None:
        first = await shop.send("each", [shop.transfer("1"), shop.transfer("2", key="own")], key="bulk")
        await shop.take_database()
        again = await shop.send("each", [shop.transfer("1"), shop.transfer("2", key="own")], key="bulk")
        assert again.body == first.body
        await shop.bring_database()
        await shop.is_online()

    async def test_another_content_under_the_key_is_refused_whole(self, shop: Shop) -> None:
        await shop.send("each", [shop.transfer("1")], key="online")
        await shop.take_database()
        await shop.send("each", [shop.transfer("1000"), shop.transfer("1")], key="offline")
        before = await shop.balance()
        for key in ("online", "offline"):
            for mode in ("each", "all"):
                told = await shop.send(mode, [shop.transfer("2"), shop.transfer("2"), shop.transfer("2")], key=key)
                assert (told.status, told.problem) == (422, "idempotency-key-reused")
            assert (await shop.send("each", [shop.transfer("1000")], key=key)).status == 422
        assert await shop.balance() == before
        await shop.bring_database()
        await shop.is_online()
        assert (await shop.send("each", [shop.transfer("2")], key="offline")).status == 422

    async def test_its_key_is_not_for_a_payment_alone(self, shop: Shop) -> None:
        """Whichever of it was booked or accepted, online and without the database."""
        transfers = [shop.transfer("x"), shop.transfer("10")]
        assert statuses(await shop.send("each", transfers, key="online")) == [400, "posted"]
        await shop.take_database()
        assert (await shop.pay("10", key="online")).status == 422
        assert statuses(await shop.send("each", transfers, key="offline")) == [400, "pending"]
        for key in ("online", "offline"):
            assert (await shop.pay("10", key=key)).status == 422
            assert statuses(await shop.send("each", [shop.transfer("10", key=key)])) == [422]
        await shop.restart()
        assert (await shop.pay("10", key="offline")).status == 422
        assert statuses(await shop.send("each", transfers, key="online")) == [400, "posted"]
        await shop.bring_database()
        await shop.is_online()
        for key in ("online", "offline"):
            assert (await shop.pay("10", key=key)).status == 422
            assert statuses(await shop.send("each", transfers, key=key)) == [400, "posted"]
        assert await shop.balance() == Decimal("279.80")
        assert sums_to_zero(shop)

    async def test_an_order_that_postgresql_refuses_stands_alone(self, shop: Shop) -> None:
        await shop.take_database()
        transfers = [shop.transfer("1"), shop.transfer("10", comment=TRAP), shop.transfer("2")]
        assert statuses(await shop.send("each", transfers, key="bulk")) == ["pending"] * 3
        shop.postgres.execute(SET_TRAP.format(sqlstate="23514"))
        await shop.bring_database()
        await shop.refuse("23514", "the trap")
        await shop.is_online()

        told = await shop.send("each", transfers, key="bulk")
        assert statuses(told) == ["posted", 409, "posted"]
        assert told.body[1]["type"] == "/problems/order-refused"
        assert await shop.balance() == Decimal("296.97")

    async def test_nobody_stands_in(self, shop: Shop) -> None:
        """What is the same for each is said once."""
        [(another,)] = shop.postgres.execute("INSERT INTO nodes (id) VALUES (gen_random_uuid()) RETURNING id::text")
        await shop.service.operate("lease", "move", another)
        await shop.service.wait_health(lambda health: not health["lease"], "the lease is gone")
        await shop.take_database()
        told = await shop.send("each", [shop.transfer("1")] * 2, key="bulk")
        assert (told.status, told.problem) == (503, "stand-in-fenced")
        assert "Retry-After" in told.headers
        # What is malformed has a problem of its own.
        assert statuses(await shop.send("each", [shop.transfer("1"), shop.transfer("x")])) == [503, 400]


class TestAll:
    async def test_all_are_accepted_or_none(self, shop: Shop) -> None:
        await shop.take_database()
        told = await shop.send("all", [shop.transfer("100"), shop.transfer("100"), shop.transfer("100")], key="a")
        assert (told.status, told.problem, told.body["index"]) == (402, "insufficient-funds", 2)
        assert await shop.balance() == Decimal("300.00")
        assert (await shop.service.health())["journal"]["pending"] == 0
        told = await shop.send("all", [shop.transfer("100"), shop.transfer("100")], key="b")
        assert statuses(told) == ["pending", "pending"]
        await shop.restart()
        assert (await shop.send("all", [shop.transfer("100"), shop.transfer("100")], key="b")).body == told.body
        await shop.bring_database()
        await shop.is_online()

        assert statuses(await shop.send("all", [shop.transfer("100"), shop.transfer("100")], key="b")) == ["posted"] * 2
        assert shop.postgres.execute(MOMENTS, orders(told)) == [(2, 1)]
        assert await shop.balance() == Decimal("98.00")
        assert sums_to_zero(shop)

    async def test_what_was_sent_before_counts_as_done_or_refuses_all(self, shop: Shop) -> None:
        await shop.pay("1", key="online")
        await shop.take_database()
        await shop.pay("2", key="offline")
        done = [shop.transfer("1", key="online"), shop.transfer("2", key="offline")]
        assert statuses(await shop.send("all", [*done, shop.transfer("3")])) == ["posted", "pending", "pending"]
        before = await shop.balance()
        for key in ("online", "offline"):
            told = await shop.send("all", [shop.transfer("1"), shop.transfer("9", key=key), shop.transfer("1")])
            assert (told.status, told.body["index"], told.body["field"]) == (422, 1, "transfers[1].key")
        assert await shop.balance() == before == Decimal("300.00") - Decimal("6.06")
        await shop.bring_database()
        await shop.is_online()
        assert await shop.balance() == before

    async def test_of_a_group_that_postgresql_refuses_nothing_is_booked(self, shop: Shop) -> None:
        await shop.take_database()
        before = await shop.accepted("1")
        transfers = [shop.transfer("10", key="one"), shop.transfer("10", comment=TRAP), shop.transfer("10")]
        group = orders(await shop.send("all", transfers, key="bulk"))
        after = orders(await shop.send("all", [shop.transfer("2"), shop.transfer("2")]))
        shop.postgres.execute(SET_TRAP.format(sqlstate="23514"))
        await shop.bring_database()
        told = await shop.refuse("23514", "the trap")
        assert told == "Entry 2 is refused.\nEntry 3 is refused.\nEntry 4 is refused.\n"
        await shop.is_online()

        shown = [await shop.order(one) for one in group]
        assert [one["status"] for one in shown] == ["refused"] * 3
        assert {one["reason"] for one in shown} == {"refused by the operator: the trap"}
        assert [(await shop.order(one))["status"] for one in (before, *after)] == ["posted"] * 3
        again = await shop.send("all", transfers, key="bulk")
        assert (again.status, again.problem) == (409, "order-refused")
        assert (await shop.pay("10", key="one")).status == 409
        assert await shop.balance() == Decimal("294.95")
        assert (await shop.service.health())["refused_at_settling"] == 3

    async def test_what_of_a_refused_group_was_booked_elsewhere_stays_booked(self, shop: Shop) -> None:
        await shop.take_database()
        booked, refused = orders(
            await shop.send("all", [shop.transfer("10", key="one"), shop.transfer("20", comment=TRAP)])
        )
        form = TransferForm(shop.from_id, account_in(shop.bert, "USD"), Decimal(10))
        names = {
            "order": booked,
            "content": content_of(form),
            "payer": form.from_account_id,
            "payee": form.to_account_id,
        }
        with shop.postgres.connected(administrator=True) as connection, connection.cursor() as cursor:
            cursor.execute(BOOK_ELSEWHERE, names)
        shop.postgres.execute(SET_TRAP.format(sqlstate="23514"))
        await shop.bring_database()
        told = await shop.refuse("23514", "the trap")
        assert told == "Entry 2 is refused.\nEntry 1 was booked before: it is posted, and not refused.\n"
        await shop.is_online()

        assert [(await shop.order(one))["status"] for one in (booked, refused)] == ["posted", "refused"]
        assert await shop.balance() == Decimal("289.90")
        assert sums_to_zero(shop)

    async def test_a_large_group_has_the_time_it_needs(self, shop: Shop) -> None:
        await shop.take_database()
        group = await shop.send("all", [shop.transfer("0.01")] * 1000)
        assert statuses(group) == ["pending"] * 1000
        shop.postgres.execute(SLOW)
        await shop.bring_database()
        await shop.is_online()

        assert shop.postgres.execute(MOMENTS, orders(group)) == [(1000, 1)]
        assert sums_to_zero(shop)

    async def test_of_a_group_that_the_rule_refuses_nothing_is_booked_and_the_reason_says_why(self, shop: Shop) -> None:
        await shop.take_database()
        group = orders(await shop.send("all", [shop.transfer("100"), shop.transfer("100"), shop.transfer("1")]))
        after = await shop.accepted("50")
        shop.postgres.execute(SPEND % {"account": shop.from_id, "amount": 150})
        await shop.bring_database()
        await shop.is_online()

        reasons = [(await shop.order(one))["reason"] for one in group]
        assert reasons[1].startswith("Insufficient funds")
        for reason in (reasons[0], reasons[2]):
            assert reason.startswith("Refused together")
            assert group[1] in reason
            assert "Insufficient funds" in reason
        assert (await shop.order(after))["status"] == "posted"
        assert await shop.balance() == Decimal("99.50")
        assert sums_to_zero(shop)

    @pytest.mark.parametrize("one_by_one", [False, True])
    async def test_what_was_refused_elsewhere_refuses_all(self, shop: Shop, one_by_one: bool) -> None:
        """At another node, which had its database still; also where PostgreSQL takes no batch of them."""
        await shop.take_database()
        told = await shop.send("all", [shop.transfer("10", key="one"), shop.transfer("20", key="two")])
        first, second = orders(told)
        shop.postgres.execute(REFUSE, first, shop.anna.id)
        if one_by_one:
            await shop.accepted("5", comment=TRAP)
            shop.postgres.execute(SET_TRAP.format(sqlstate="23514"))
        await shop.bring_database()
        if one_by_one:
            await shop.refuse("23514", "the trap")
        await shop.is_online()

        shown = await shop.order(second)
        assert shown["status"] == "refused"
        assert first in shown["reason"]
        assert await shop.balance() == Decimal("300.00")

    @pytest.mark.parametrize("before", [0, 1, 399, 400])
    async def test_a_group_is_settled_in_one_transaction_wherever_it_begins(self, shop: Shop, before: int) -> None:
        await shop.take_database()
        if before:
            await shop.send("each", [shop.transfer("0.01")] * before)
        group = orders(await shop.send("all", [shop.transfer("0.01")] * 1000))
        behind = orders(await shop.send("each", [shop.transfer("0.01")] * 50))
        await shop.bring_database()
        await shop.is_online()

        assert shop.postgres.execute(MOMENTS, group) == [(1000, 1)]
        assert shop.postgres.execute(MOMENTS, behind)[0][0] == 50
        assert await shop.balance() == Decimal(300) - (before + 1050) * Decimal("0.02")


class TestCaps:
    @pytest.fixture
    def settings(self) -> dict[str, str]:
        """Some orders."""
        return {"APP_OFFLINE_MAX_ORDERS": "4", "APP_OFFLINE_MAX_DEBIT": "100"}

    async def test_a_cap_is_told_of_each_transfer_that_is_above_it(self, shop: Shop) -> None:
        await shop.take_database()
        told = await shop.send("each", [shop.transfer("100"), shop.transfer("101")])
        assert statuses(told) == [503, 503]
        assert {result["type"] for result in told.body} == {"/problems/offline-debit-cap"}

    async def test_a_group_that_is_refused_counts_for_nothing(self, shop: Shop) -> None:
        await shop.take_database()
        told = await shop.send("all", [shop.transfer("1")] * 5)
        assert (told.status, told.problem, told.body["index"]) == (503, "offline-orders-cap", 4)
        told = await shop.send("all", [shop.transfer("40")] * 3)
        assert (told.status, told.problem, told.body["index"]) == (503, "offline-debit-cap", 2)
        assert statuses(await shop.send("all", [shop.transfer("24")] * 4)) == ["pending"] * 4
        told = await shop.send("each", [shop.transfer("1")] * 2)
        assert (told.status, told.problem) == (503, "offline-orders-cap")
        await shop.bring_database()
        await shop.is_online()


class TestDoubt:
    @pytest.mark.parametrize("mode", ["each", "all"])
    @pytest.mark.parametrize("cut", [Cut.BEFORE_COMMIT, Cut.AFTER_COMMIT])
    async def test_a_bulk_whose_commit_is_in_doubt_is_booked_once(self, shop: Shop, mode: str, cut: Cut) -> None:
        transfers = [shop.transfer("0.50") for _ in range(300)]
        shop.proxy.at_commit(cut)
        told = await shop.send(mode, transfers, key="bulk")
        assert statuses(told) == ["pending"] * 300
        await shop.is_online()

        posted = await shop.send(mode, transfers, key="bulk")
        assert statuses(posted) == ["posted"] * 300
        assert orders(posted) == orders(told)
        assert shop.postgres.execute(MOMENTS, orders(told)) == [(300, 1)]
        assert sums_to_zero(shop)

    @pytest.mark.parametrize("cut", [Cut.BEFORE_COMMIT, Cut.AFTER_COMMIT])
    async def test_its_key_is_not_for_a_payment_alone(self, shop: Shop, cut: Cut) -> None:
        transfers = [shop.transfer("1000"), shop.transfer("10")]
        shop.proxy.at_commit(cut)
        told, alone = await asyncio.gather(shop.send("each", transfers, key="bulk"), shop.pay("5", key="bulk"))
        # Whichever came first: the other meets it in the journal, or in PostgreSQL.
        if alone.status == 422:
            assert statuses(told) == [402, "pending"]
            told = await shop.send("each", transfers, key="bulk")
            assert (await shop.pay("5", key="bulk")).status == 422
        else:
            assert (alone.status, told.status) == (202, 422)
        await shop.is_online()
        balance = Decimal("289.90") if alone.status == 422 else Decimal("294.95")
        assert await shop.balance() == balance
        assert (await shop.pay("5", key="bulk")).status == (422 if alone.status == 422 else 200)
        assert await shop.balance() == balance
        assert sums_to_zero(shop)

    async def test_kill_9_with_a_commit_that_nobody_heard_of(self, shop: Shop) -> None:
        transfers = [shop.transfer("0.10") for _ in range(300)]
        shop.proxy.at_commit(Cut.HOLD_COMMIT)
        sending = asyncio.create_task(shop.send("all", transfers, key="bulk"))
        while not shop.proxy.holds:  # noqa: ASYNC110 - the proxy does not tell
            await asyncio.sleep(0.01)
        shop.service.kill()
        await asyncio.wait([sending])
        # It lands after all.
        shop.proxy.release()
        shop.service.start()
        await shop.service.wait_ready()
        await shop.is_online()

        told = await shop.send("all", transfers, key="bulk")
        assert statuses(told) == ["posted"] * 300
        assert shop.postgres.execute(MOMENTS, orders(told)) == [(300, 1)]
        assert await shop.balance() == Decimal("300.00") - 300 * Decimal("0.11")
        assert sums_to_zero(shop)


async def test_users_see_what_they_were_told(shop: Shop) -> None:
    await shop.take_database()
    told = await shop.send("all", [shop.transfer("100"), shop.transfer("50")])
    shown = [await shop.order(one) for one in orders(told)]
    assert [one["status"] for one in shown] == ["pending", "pending"]
    assert [result["detail"].partition(".")[0] for result in told.body] == ["Service partially down"] * 2
    assert await shop.balance() == told.body[1]["balance"] == Decimal("148.50")
    assert told.headers["Aiopypay-Mode"] == "stand-in"
    assert account_in(shop.anna, "USD") == told.body[0]["transfers"][0]["from_account_id"]
    await shop.bring_database()
    await shop.is_online()
