"""What a node remembers is what PostgreSQL has, however it came by it; what it cannot know it does not use."""

import asyncio
import random
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from aiopypay.database import Database
from aiopypay.errors import StandInFenced
from aiopypay.handlers.accounts import open_once
from aiopypay.stand_in import changes, fill, reading, recovery
from aiopypay.stand_in.acceptance import SECONDS_DOWN
from aiopypay.stand_in.changes import UserChanges
from aiopypay.stand_in.directory import MARK
from aiopypay.stand_in.fill import Fill
from aiopypay.stand_in.moments import Moments
from aiopypay.stand_in.settle import Settlement, SettlingStopped
from aiopypay.statements import Connection
from aiopypay.store.users import User

from .node import (
    Holder,
    NodeHere,
    add_holders,
    balance_of,
    payment,
    refused_orders,
    running,
)
from .postgres import PostgresServer
from .proxy import Cut, Proxy
from .waiting import eventually

MANY = 3000
PAYERS = 24
SMALL_PAGE = 50
SOON = 5
HOUR = 3600
DEACTIVATE = "UPDATE users SET is_active = FALSE WHERE id = %s"


@pytest.fixture
def postgres(migrated_postgres: PostgresServer) -> PostgresServer:
    """With the service's schema in it."""
    return migrated_postgres


@pytest.fixture
def three(postgres: PostgresServer) -> list[Holder]:
    """Users with 100 each."""
    return add_holders(postgres, 3)


def _user(holder: Holder) -> User:
    return User(holder.user_id, holder.username, "User", "!", is_admin=False, is_active=True)


async def _certain(node: NodeHere) -> None:
    async def is_certain() -> bool:
        return not await node.uncertain()

    await eventually(is_certain, SOON, "every user is certain again")


class TestFill:
    async def test_under_load_it_remembers_no_wrong_balance(
        self, postgres: PostgresServer, directory: Path, monkeypatch: pytest.MonkeyPatch, seed: int
    ) -> None:
        monkeypatch.setattr(fill, "PAGE", SMALL_PAGE)
        holders = add_holders(postgres, MANY)
        async with running(postgres.dsn, directory) as node:
            generator = random.Random(seed)

            async def pay_all_the_time() -> None:
                # With those of the superuser.
                while node.stand_in._fill.accounts < MANY + 3:
                    payer, payee = generator.sample(holders, 2)
                    assert await node.pay(payer, payee, "1") == 200

            async with asyncio.timeout(30), asyncio.TaskGroup() as payers:
                for _ in range(PAYERS):
                    payers.create_task(pay_all_the_time())
            ids = [holder.account for holder in holders]
            known = await node.stand_in._node.run(lambda store: store.accounts(ids))
        real = postgres.execute("SELECT id, amount, version FROM accounts WHERE user_id > 1")
        assert any(version > 0 for _, _, version in real)
        assert {row for row in real if row != (row[0], known[row[0]].amount, known[row[0]].version)} == set()

    async def test_a_page_never_comes_in_over_a_payment_made_since_it_was_read(
        self, postgres: PostgresServer, directory: Path, three: list[Holder], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        payments: list[asyncio.Task[int]] = []
        learn = Moments.learn

        async def beside_a_payment(self: Moments, database: Database, read: Any, remember: Any) -> Any:
            async def read_it(connection: Connection) -> Any:
                found = await read(connection)
                if remember is fill._remember_accounts and not payments:
                    payments.append(asyncio.create_task(node.pay(three[0], three[1], "40")))
                    await asyncio.sleep(0)
                return found

            return await learn(self, database, read_it, remember)

        monkeypatch.setattr(Moments, "learn", beside_a_payment)
        async with running(postgres.dsn, directory) as node:
            await node.filled()
            assert await payments[0] == 200
            for holder in three:
                assert await node.expected(holder) == balance_of(postgres, holder)

    async def test_a_batch_in_doubt_meanwhile_is_counted_once(
        self, postgres: PostgresServer, directory: Path, three: list[Holder], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        anna, bert, _ = three
        async with running(postgres.dsn, directory) as node:
            await node.filled()
        # Its memory is read anew, which takes until the orders are.
        (directory / "stand-in" / MARK).unlink()
        go_on = asyncio.Event()
        fill_orders = Fill._fill_orders

        async def slow(self: Fill) -> None:
            await go_on.wait()
            await fill_orders(self)

        monkeypatch.setattr(Fill, "_fill_orders", slow)
        async with (
            Proxy(postgres.port) as proxy,
            running(postgres.dsn, directory, payments_url=proxy.dsn(postgres.dsn)) as node,
        ):
            await eventually(lambda: node.stand_in._fill.accounts >= len(three), SOON, "the balances are read")
            proxy.at_commit(Cut.AFTER_COMMIT)
            assert await node.pay(anna, bert, "90") in (202, 503)
            assert proxy.cuts == 1
            await node.online()
            go_on.set()
            await node.filled()
            assert await node.expected(anna) == balance_of(postgres, anna) == Decimal("9.10")

            await asyncio.to_thread(postgres.stop)
            assert await node.pay(anna, bert, "90") == 402
            await asyncio.to_thread(postgres.start)
            await node.online()
        assert refused_orders(postgres) == []


class TestKeys:
    async def test_who_repeats_a_forgotten_order_has_no_money_of_it(
        self, postgres: PostgresServer, directory: Path, three: list[Holder]
    ) -> None:
        anna, bert, carl = three
        async with running(postgres.dsn, directory) as node:
            await node.filled()
            node.store.orders_max = 2
            assert await node.pay(anna, bert, "40", "once") == 200
            for number in range(3):
                assert await node.pay(carl, anna, "1", f"later {number}") == 200
            assert (
                await node.stand_in._node.run(lambda store: store.order(payment(anna, bert, "40", "once").id)) is None
            )
            await asyncio.to_thread(postgres.stop)

            assert await node.pay(anna, bert, "40", "once") in (202, 503)
            assert await node.pay(bert, carl, "170") in (402, 503)
            assert await node.pay(bert, carl, "100") == 202
            await asyncio.to_thread(postgres.start)
            await node.online()
        assert refused_orders(postgres) == []
        assert balance_of(postgres, bert) == Decimal("39.00")

    async def test_a_kill_after_an_account_was_opened_does_not_forget_its_key(
        self, postgres: PostgresServer, directory: Path, three: list[Holder], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        anna, bert, _ = three
        async with running(postgres.dsn, directory, killed=True) as node:
            await eventually(lambda: node.stand_in._fill.done, SOON, "everything is remembered")
            with monkeypatch.context() as patch:
                patch.setattr(UserChanges, "refresh_soon", lambda _: None)
                patch.setattr(changes, "remember_certain", lambda *_: None)
                async with node.stand_in.changes.transaction(anna.username) as connection:
                    await open_once(connection, anna.user_id, "USD", "key", 100)
            assert await node.uncertain() == [anna.username]
        async with running(postgres.dsn, directory) as node:
            await node.filled()
            await _certain(node)
            await asyncio.to_thread(postgres.stop)

            assert await node.pay(anna, bert, "5", "key") == 422
            assert await node.pay(anna, bert, "5", "another") == 202
            await asyncio.to_thread(postgres.start)
            await node.online()
        assert refused_orders(postgres) == []


class TestUsers:
    async def test_a_start_reads_those_anew_whom_a_kill_left_uncertain(
        self, postgres: PostgresServer, directory: Path, three: list[Holder], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        anna = three[0]
        async with running(postgres.dsn, directory, killed=True) as node:
            await node.filled()
            with monkeypatch.context() as patch:
                patch.setattr(UserChanges, "refresh_soon", lambda _: None)
                patch.setattr(changes, "remember_certain", lambda *_: None)
                async with node.stand_in.changes.transaction(anna.username):
                    await asyncio.to_thread(postgres.execute, DEACTIVATE, anna.user_id)
            assert await node.uncertain() == [anna.username]
        async with running(postgres.dsn, directory) as node:
            await _certain(node)
            await asyncio.to_thread(postgres.stop)
            known = (await node.stand_in.deputy.users([anna.username]))[anna.username]
            assert isinstance(known, User)
            assert not known.is_active


class TestSettling:
    async def test_one_by_one_nothing_in_doubt_is_counted_twice(
        self, postgres: PostgresServer, directory: Path, three: list[Holder]
    ) -> None:
        anna, bert, carl = three
        async with (
            Proxy(postgres.port) as to_pay,
            Proxy(postgres.port) as proxy,
            running(proxy.dsn(postgres.dsn), directory, payments_url=to_pay.dsn(postgres.dsn)) as node,
        ):
            await node.filled()

            async def keep_away() -> None:
                to_pay.before_commit = None
                proxy.refuse()

            to_pay.before_commit = keep_away
            to_pay.at_commit(Cut.AFTER_COMMIT)
            payments = [node.pay(anna, bert, amount) for amount in ("10", "40")]
            assert await asyncio.gather(*payments) == [202, 202]
            assert to_pay.cuts == 1
            assert balance_of(postgres, bert) == 150
            # PostgreSQL will not take this one, nor therefore all three at once.
            assert await node.pay(carl, anna, "7") == 202
            postgres.execute("ALTER TABLE transfers ADD CONSTRAINT no_seven CHECK (amount <> 7)")
            await proxy.accept()
            recovery = node.stand_in._recovery
            await eventually(lambda: "23514" in (recovery.waits_for or ""), SOON, "settling waits for the operator")
            assert await node.expected(bert) == 150
            postgres.execute("ALTER TABLE transfers DROP CONSTRAINT no_seven")
            await node.online()
        assert refused_orders(postgres) == []


class TestHours:
    """How long the database has been away is counted over restarts, whether or not an order came."""

    async def test_at_a_stop(self, postgres: PostgresServer, directory: Path) -> None:
        async with running(postgres.dsn, directory) as node:
            await asyncio.to_thread(postgres.stop)
            node.switch.lost("a test")
            node.switch._down_at = time.monotonic() - HOUR
        # It could not be longer, and it is counted on.
        for hours in (1, 2):
            async with running(postgres.dsn, directory) as node:
                assert not node.switch.is_up
                assert HOUR * hours <= await seconds_away(node) < HOUR * hours + HOUR / 2
                node.switch._down_at = time.monotonic() - HOUR

        await asyncio.to_thread(postgres.start)
        async with running(postgres.dsn, directory) as node:
            await node.online()
            assert await seconds_away(node) == 0

    @pytest.mark.parametrize("is_settling", [False, True])
    async def test_now_and_then_for_a_kill(
        self, postgres: PostgresServer, directory: Path, monkeypatch: pytest.MonkeyPatch, is_settling: bool
    ) -> None:
        monkeypatch.setattr(recovery, "NOTE_SECONDS", 0.0)
        if is_settling:
            monkeypatch.setattr(Settlement, "settle_next", fail_settling)
        async with running(postgres.dsn, directory, killed=True) as node:
            if not is_settling:
                await asyncio.to_thread(postgres.stop)
            node.switch.lost("a test")
            node.switch._down_at = time.monotonic() - HOUR

            async def is_kept() -> bool:
                return await seconds_away(node) >= HOUR

            await eventually(is_kept, SOON, "the time is kept")
            assert (node.switch.mode == "settling") == is_settling


async def seconds_away(node: NodeHere) -> float:
    """What is kept of it."""
    kept: str | None = await node.stand_in._node.run(lambda store: store.setting(SECONDS_DOWN))
    return float(kept or 0)


async def fail_settling(_: Settlement) -> int:
    raise SettlingStopped("a test")


class TestFenced:
    async def test_what_it_no_longer_follows_it_does_not_tell(
        self, postgres: PostgresServer, directory: Path, three: list[Holder]
    ) -> None:
        anna, bert, _ = three
        async with running(postgres.dsn, directory) as node:
            await node.filled()
            node.stand_in._node.fence("the disk was full")
            assert await node.pay(anna, bert, "20") == 200
            async with node.stand_in.changes.transaction(anna.username):
                await asyncio.to_thread(postgres.execute, DEACTIVATE, anna.user_id)
            await asyncio.to_thread(postgres.stop)
            assert await node.pay(anna, bert, "20") == 503

            with pytest.raises(StandInFenced):
                await node.stand_in.deputy.read(reading.account, anna.account)
            with pytest.raises(StandInFenced):
                await node.stand_in.deputy.users([anna.username])

    async def test_fenced_without_the_database_it_still_tells_what_it_knows(
        self, postgres: PostgresServer, directory: Path, three: list[Holder]
    ) -> None:
        anna, bert, _ = three
        async with running(postgres.dsn, directory) as node:
            await node.filled()
            assert await node.pay(anna, bert, "20") == 200
            await asyncio.to_thread(postgres.stop)
            assert await node.pay(anna, bert, "10") == 202
            node.stand_in._node.fence("the disk was full")
            assert await node.pay(anna, bert, "10") == 503

            told = await node.stand_in.deputy.read(reading.account, anna.account)
            assert told.amount == Decimal("69.70")
