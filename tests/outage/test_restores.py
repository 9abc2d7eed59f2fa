"""An older moment of the database, or of the node's directory, is put in place: it is noticed before anything is done.

The operator decides: what the node remembers and the database lacks is booked again, or given up.
"""

import asyncio
import shutil
from dataclasses import replace
from decimal import Decimal
from typing import Any

from .caller import Told, account_in, call, pay
from .load import Person, register_people
from .shop import Shop

BOOKS = """
SELECT orders.id::text, orders.user_id, idempotency_key, fingerprint, status, balance,
    kind, from_account_id, to_account_id, transfers.amount, comment
FROM orders LEFT JOIN transfers ON transfers.order_id = orders.id
ORDER BY transfers.id, orders.id
"""
ACCOUNTS = "SELECT id, user_id, currency_id, amount, created_at, order_id::text FROM accounts ORDER BY id"
USERS = """
SELECT id, username, full_name, password_hash, is_admin, is_active, deactivations, created_at FROM users ORDER BY id
"""
CURRENCIES = "SELECT id, description, commission, decimals, ordinal FROM currencies ORDER BY id"
BLOCKED = "python -m aiopypay journal replay"


def books(shop: Shop) -> dict[str, Any]:
    """All that matters in the database; numbers and times of bookings do not."""
    tables = {"books": BOOKS, "accounts": ACCOUNTS, "users": USERS, "currencies": CURRENCIES}
    return {name: shop.postgres.execute(sql) for name, sql in tables.items()}


async def back_up(shop: Shop) -> None:
    """A copy of the database as it is now, made while nobody uses it."""
    await shop.take_database()
    await shop.service.wait_mode("stand-in")
    shop.postgres.execute_elsewhere("DROP DATABASE IF EXISTS backup")
    shop.postgres.execute_elsewhere(f"CREATE DATABASE backup OWNER aiopypay_owner TEMPLATE {shop.postgres.database}")
    await shop.bring_database()
    await shop.is_online()


async def restore(shop: Shop) -> None:
    """The copy takes the database's place."""
    await shop.take_database()
    await shop.service.wait_mode("stand-in")
    ours = shop.postgres.database
    shop.postgres.execute_elsewhere(f"DROP DATABASE {ours} WITH (FORCE)")
    shop.postgres.execute_elsewhere(f"CREATE DATABASE {ours} OWNER aiopypay_owner TEMPLATE backup")
    await shop.bring_database()


async def registered(shop: Shop, name: str) -> Person:
    """A new user, who is remembered."""
    [person] = await register_people(shop.service.base_url, [name])
    await shop.service.wait_filled()
    return person


async def enter(shop: Shop, person: Person) -> Told:
    return await call(shop.service.base_url, "GET", f"/users/{person.id}/accounts", person.headers)


async def paid(shop: Shop, payer: Person, payee: Person, amount: str, key: str | None = None) -> Told:
    """From one's dollars to the other's."""
    return await pay(shop.service.base_url, payer, account_in(payer, "USD"), account_in(payee, "USD"), amount, key)


async def change_password(shop: Shop, person: Person, password: str) -> Person:
    form = {"current_password": person.password, "password": password}
    told = await call(shop.service.base_url, "PATCH", "/api/users/me", person.headers, form)
    assert told.status == 200, told
    return replace(person, password=password)


async def refused(shop: Shop, *arguments: str) -> str:
    """What a command says that is not carried out."""
    ended = await asyncio.to_thread(shop.service.run, *arguments)
    assert ended.returncode == 1, ended.stdout
    return ended.stderr


class TestNoticed:
    async def test_a_backup_from_before_a_registration_and_a_new_password(self, shop: Shop) -> None:
        """No payment was booked since: nothing but the moment tells."""
        await back_up(shop)
        cleo = await registered(shop, "cleo")
        bert = await change_password(shop, shop.bert, "another password")
        await restore(shop)
        await shop.waits_for(BLOCKED)

        assert [(await enter(shop, person)).status for person in (cleo, bert, shop.bert)] == [503, 503, 503]
        assert (await paid(shop, cleo, shop.anna, "1")).status == 503
        assert (await call(shop.service.base_url, "GET", "/currencies", {})).status == 503
        # Over restarts, and without the database too.
        await shop.take_database()
        await shop.restart()
        assert (await enter(shop, cleo)).status == 503
        assert (await shop.pay("1")).status == 503
        await shop.bring_database()
        await shop.waits_for(BLOCKED)
        before = books(shop)
        assert "0 users, 0 accounts" not in await shop.service.operate("journal", "replay", "--dry-run")
        assert books(shop) == before

    async def test_a_restore_that_nobody_s_connection_was_lost_by(self, shop: Shop) -> None:
        """The next batch finds another moment, and books nothing."""
        await back_up(shop)
        assert (await shop.pay("5", key="before")).status == 200
        shop.postgres.execute("UPDATE moments SET token = gen_random_uuid(), count = count - 1")
        told = await shop.pay("7", key="after")
        assert told.status == 503
        await shop.waits_for(BLOCKED)
        assert shop.postgres.execute("SELECT 1 FROM orders WHERE idempotency_key = 'after'") == []

    async def test_a_change_of_a_user_finds_it_too(self, shop: Shop) -> None:
        shop.postgres.execute("DELETE FROM moments")
        form = {"current_password": shop.bert.password, "password": "another password"}
        told = await call(shop.service.base_url, "PATCH", "/api/users/me", shop.bert.headers, form)
        assert told.status == 503
        await shop.waits_for(BLOCKED)

    async def test_a_directory_that_was_put_back_from_a_copy(self, shop: Shop) -> None:
        await shop.service.terminate()
        directory = shop.service.data_dir
        shutil.copytree(directory, directory.with_name("copy"))
        shop.service.start()
        await shop.service.wait_ready()
        booked = await shop.pay("5", key="since")
        assert booked.status == 200
        await shop.service.terminate()
        shutil.rmtree(directory)
        directory.with_name("copy").rename(directory)
        shop.service.start()
        await shop.service.wait_ready()
        await shop.waits_for("the directory was put back from a copy")
        assert (await enter(shop, shop.anna)).status == 503

        await shop.service.operate("journal", "trust")
        await shop.is_online()
        await shop.service.wait_filled()
        assert (await shop.pay("5", key="since")).body == booked.body
        assert await shop.balance() == Decimal("294.95")

    async def test_nothing_is_noticed_where_nothing_was_lost(self, shop: Shop) -> None:
        assert (await shop.pay("5")).status == 200
        for _ in range(2):
            await shop.take_database()
            await shop.accepted("1")
            await shop.restart()
            await shop.bring_database()
            await shop.is_online()
        shop.postgres.stop("immediate")
        shop.postgres.start()
        await shop.is_online()
        assert (await shop.pay("5")).status == 200

    async def test_who_decides_where_nothing_waits_is_told_so(self, shop: Shop) -> None:
        for arguments in (("replay",), ("replay", "--dry-run"), ("trust",)):
            assert "othing" in await refused(shop, "journal", *arguments)
        await shop.service.terminate()
        assert "the service does not run" in await refused(shop, "journal", "trust")


class TestReplay:
    async def test_the_books_are_what_they_were(self, shop: Shop) -> None:
        """The drill: backup, business on- and offline, restore, replay."""
        assert (await shop.pay("1", key="long-ago")).status == 200
        await back_up(shop)
        expected = await self._do_business(shop)
        before = books(shop)
        await shop.take_database()
        await shop.service.wait_mode("stand-in")
        pending = await shop.accepted("3", key="pending")
        await restore(shop)
        await shop.waits_for(BLOCKED)

        foretold = await shop.service.operate("journal", "replay", "--dry-run")
        told = await shop.service.operate("journal", "replay")
        await shop.is_online()
        assert "1 users" in told
        assert "0 unplaced" in told
        assert told == foretold

        after = books(shop)
        # In the order of before, and what was accepted behind it. What has no transfers has no place in it.
        for has_transfers in (True, False):
            was, now = (
                [row for row in rows["books"] if (row[6] is not None) is has_transfers] for rows in (before, after)
            )
            assert now[: len(was)] == was
            assert {row[0] for row in now[len(was) :]} == ({pending} if has_transfers else set())
        assert after["users"] == before["users"]
        assert after["currencies"] == before["currencies"]
        assert [row[:3] + row[4:] for row in after["accounts"]] == [row[:3] + row[4:] for row in before["accounts"]]
        await shop.service.wait_filled()
        for key, answer in expected.items():
            again = await self._again(shop, key)
            assert again.status == 200, again
            assert again.body["order_id"] == answer.body["order_id"]
            assert again.body["balance"] == answer.body["balance"]
        assert books(shop) == after

    async def test_it_goes_on_over_a_kill_and_another_loss(self, shop: Shop) -> None:
        await back_up(shop)
        for number in range(30):
            assert (await shop.pay("1", key=f"payment-{number}")).status == 200
        before = books(shop)
        await restore(shop)
        await shop.waits_for(BLOCKED)
        deciding = asyncio.create_task(asyncio.to_thread(shop.service.run, "journal", "replay"))
        # Wherever it is by then.
        await shop.restart()
        await deciding
        if (await shop.service.health())["mode"] != "online":
            await asyncio.to_thread(shop.service.run, "journal", "replay")
        await shop.is_online()
        assert books(shop)["books"] == before["books"]

    async def test_nothing_is_booked_under_a_stranger_s_number(self, shop: Shop) -> None:
        """After the restore the number of a user who vanished, and those of the accounts, were given out anew."""
        await back_up(shop)
        cleo = await registered(shop, "cleo")
        lost = await paid(shop, shop.anna, cleo, "10", "to-cleo")
        spent = await paid(shop, cleo, shop.bert, "20", "from-cleo")
        between = await paid(shop, shop.anna, shop.bert, "30", "among-others")
        assert [told.status for told in (lost, spent, between)] == [200, 200, 200]
        await shop.take_database()
        await shop.service.wait_mode("stand-in")
        pending = await paid(shop, cleo, shop.bert, "1", "pending")
        assert pending.status == 202
        await restore(shop)
        await shop.waits_for(BLOCKED)
        shop.postgres.execute(
            "INSERT INTO users (username, full_name, password_hash) VALUES ('mallory', 'Mallory', '!')"
        )
        shop.postgres.execute("INSERT INTO accounts (user_id, currency_id) SELECT %s, id FROM currencies", cleo.id)
        assert shop.postgres.execute("SELECT username FROM users WHERE id = %s", cleo.id) == [("mallory",)]

        told = await shop.service.operate("journal", "replay")
        await shop.is_online()
        for answer in (lost, spent, pending):
            assert f"unplaced  {answer.body['order_id']}" in told
        listed = await shop.service.operate("journal", "--state", "unplaced")
        assert pending.body["order_id"] in listed
        owners = shop.postgres.execute("SELECT DISTINCT user_id FROM orders")
        assert (cleo.id,) not in owners
        booked = {row[0] for row in shop.postgres.execute("SELECT id::text FROM orders")}
        assert between.body["order_id"] in booked
        assert shop.postgres.execute("SELECT sum(amount) FROM accounts WHERE user_id = %s", cleo.id) == [(0,)]
        assert shop.postgres.execute("SELECT sum(amount) FROM accounts GROUP BY currency_id") == [(0,), (0,), (0,)]

    async def _do_business(self, shop: Shop) -> dict[str, Told]:
        """New users, passwords, accounts and currencies; payments with the database, without, and in a bulk."""
        answers: dict[str, Told] = {}
        cleo = await registered(shop, "cleo")
        await change_password(shop, shop.bert, "another password")
        opened = await call(
            shop.service.base_url,
            "POST",
            f"/users/{cleo.id}/accounts/USD",
            cleo.headers | {"Idempotency-Key": "opening"},
        )
        assert opened.status == 200
        answers["online"] = await shop.pay("7", key="online")
        assert (await paid(shop, cleo, shop.bert, "50")).status == 200
        told = await shop.send("all", [shop.transfer("1"), shop.transfer("2", key="of-a-bulk")], key="bulk")
        assert told.status == 200
        await shop.take_database()
        await shop.service.wait_mode("stand-in")
        await shop.accepted("5", key="offline")
        await shop.bring_database()
        await shop.is_online()
        answers["offline"] = await shop.pay("5", key="offline")
        assert answers["offline"].status == 200
        return answers

    async def _again(self, shop: Shop, key: str) -> Told:
        return await shop.pay({"online": "7", "offline": "5"}[key], key=key)


class TestTrust:
    async def test_the_database_is_taken_as_it_is(self, shop: Shop) -> None:
        await back_up(shop)
        cleo = await registered(shop, "cleo")
        assert (await shop.pay("7", key="given-up")).status == 200
        await shop.take_database()
        await shop.service.wait_mode("stand-in")
        pending = await shop.accepted("3", key="pending")
        of_cleo = await paid(shop, cleo, shop.bert, "1", "of-cleo")
        assert of_cleo.status == 202
        await restore(shop)
        await shop.waits_for(BLOCKED)

        told = await shop.service.operate("journal", "trust")
        assert f"unplaced  {of_cleo.body['order_id']}" in told
        await shop.is_online()
        await shop.service.wait_filled()
        assert (await shop.order(pending))["status"] == "posted"
        assert await shop.balance() == Decimal("296.97")
        assert (await enter(shop, cleo)).status == 401
        # Forgotten is what was answered, too: it is judged anew.
        assert (await shop.pay("7", key="given-up")).status == 200
        assert await shop.balance() == Decimal("289.90")
