"""What is told, step by step, while it is found out what of the journal is booked: always what will be true."""

import contextlib
import random
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from aiopypay.database import Database
from aiopypay.errors import DatabaseUnavailable
from aiopypay.stand_in.acceptance import KEYS_COMPLETE
from aiopypay.stand_in.records import JournalEntry
from aiopypay.stand_in.rejected import NotAwaited
from aiopypay.stand_in.settle import BATCH_SIZE, Settlement, SettlingStopped
from aiopypay.stand_in.store import Store

from .node import Holder, NodeHere, add_holders, balance_of, refused_orders, running
from .postgres import PostgresServer
from .proxy import Cut, Proxy

BULK = ["0.01"] * 1000
SMALL = 40
REJECT_13 = "ALTER TABLE transfers ADD CONSTRAINT no_13 CHECK (amount <> 13) NOT VALID"
ALLOW_13 = "ALTER TABLE transfers DROP CONSTRAINT no_13"


class Outage:
    """A node that loses its database when a COMMIT is cut, and does not find it again by itself."""

    def __init__(self, postgres: PostgresServer, payments: Proxy, others: Proxy, directory: Path) -> None:
        self.postgres = postgres
        self._payments = payments
        self._others = others
        self.holders = add_holders(postgres, 3)
        self._directory = directory
        self.node: NodeHere

    @contextlib.asynccontextmanager
    async def node_running(self, *, killed: bool = False) -> AsyncIterator[None]:
        """Where the database is away, it starts without."""
        others, payments = self._others.dsn(self.postgres.dsn), self._payments.dsn(self.postgres.dsn)
        async with running(others, self._directory, payments_url=payments, killed=killed) as self.node:
            if self.node.switch.is_up:
                await self.node.filled()
            yield

    def lose(self, cut: Cut | None = None) -> None:
        """The database is lost: at the COMMIT of the next payments, which is cut, or now."""

        async def leave() -> None:
            for proxy in (self._payments, self._others):
                proxy.refuse()
            self._others.reset()

        if cut is None:
            for proxy in (self._payments, self._others):
                proxy.refuse()
                proxy.reset()
        else:
            self._payments.before_commit = leave
            self._payments.at_commit(cut)

    async def find(self) -> None:
        """The database is there again; returns when the node is online."""
        for proxy in (self._payments, self._others):
            await proxy.accept()
        self._payments.before_commit = None
        await self.node.online()

    @contextlib.asynccontextmanager
    async def settlement(self) -> AsyncIterator[Settlement]:
        """Settles by steps of the test's own, past the proxy."""
        database = Database(self.postgres.dsn, connections=1)
        try:
            yield _settlement(database, self.node)
        finally:
            database.close()

    async def pending(self) -> list[JournalEntry]:
        """What has no outcome."""
        return await self.node.stand_in._node.run(lambda store: store.entries("pending", 10_000))

    async def tells_the_truth(self) -> None:
        """What is told is what PostgreSQL holds, and what of the journal it does not hold yet."""
        pending = [entry.entry for entry in await self.pending()]
        booked = {row[0] for row in self.postgres.execute("SELECT id::text FROM orders")}
        for holder in self.holders:
            true = balance_of(self.postgres, holder)
            for entry in pending:
                if str(entry.order.id) not in booked:
                    true += sum(
                        transfer.amount
                        * ((transfer.to_account_id == holder.account) - (transfer.from_account_id == holder.account))
                        for transfer in entry.transfers
                    )
            assert await self.node.expected(holder) == true, holder

    async def settle_whole(self, settlement: Settlement) -> int:
        """Settles step by step, and looks at what is told after each; returns the number of steps."""
        steps = 0
        while await settlement.pending():
            assert await settlement.settle_next()
            await self.tells_the_truth()
            steps += 1
        assert refused_orders(self.postgres) == []
        for holder in self.holders:
            assert (await self.node.remembered(holder)).amount == balance_of(self.postgres, holder)
        return steps


@pytest.fixture
async def outage(migrated_postgres: PostgresServer, directory: Path) -> AsyncIterator[Outage]:
    async with Proxy(migrated_postgres.port) as payments, Proxy(migrated_postgres.port) as others:
        yield Outage(migrated_postgres, payments, others, directory)


async def test_a_bulk_whose_commit_was_not_answered_is_found_whole_and_counted_once(outage: Outage) -> None:
    """It is larger than a settling batch."""
    anna, bert, carl = outage.holders
    async with outage.node_running():
        outage.lose(Cut.AFTER_COMMIT)
        assert set(await outage.node.pay_all(anna, bert, BULK)) == {202}
        await outage.tells_the_truth()
        assert await outage.node.expected(anna) == Decimal(80)
        async with outage.settlement() as settlement:
            assert await settlement.settle_next() == len(BULK)
            await outage.tells_the_truth()
            # What is covered is accepted, and nothing else.
            assert await outage.node.pay(anna, carl, "79.20") == 202
            assert await outage.node.pay(anna, carl, "0.01") == 402
            assert await outage.node.pay(bert, carl, "108.92") == 402
            await outage.settle_whole(settlement)


async def test_it_is_told_right_when_it_is_asked_for_in_between(
    outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small the parts are in which settling takes a batch in doubt."""
    anna, bert, carl = outage.holders
    monkeypatch.setattr("aiopypay.stand_in.settle.BATCH_SIZE", SMALL)
    monkeypatch.setattr("aiopypay.stand_in.settle.doubts_beyond", lambda _store, _batch: [])
    async with outage.node_running():
        outage.lose(Cut.AFTER_COMMIT)
        assert set(await outage.node.pay_all(anna, bert, ["0.50"] * 100)) == {202}
        await outage.node.pay(carl, bert, "3")
        async with outage.settlement() as settlement:
            assert await outage.settle_whole(settlement) == 3


async def test_a_bulk_that_was_not_booked_goes_first_and_nobody_pays_twice(outage: Outage) -> None:
    anna, bert, carl = outage.holders
    async with outage.node_running():
        outage.lose(Cut.BEFORE_COMMIT)
        assert set(await outage.node.pay_all(anna, bert, BULK)) == {202}
        assert await outage.node.pay(bert, carl, "108") == 202
        async with outage.settlement() as settlement:
            assert await outage.settle_whole(settlement) == 2
        assert balance_of(outage.postgres, carl) == Decimal(208)


async def test_so_it_is_with_all_batches_that_a_kill_leaves_unrecorded(
    outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna, bert, carl = outage.holders
    async with outage.node_running(killed=True):
        monkeypatch.setattr(outage.node.stand_in.deputy, "record", lambda *_: None)
        for payer, payee in ((anna, bert), (bert, carl), (carl, anna), (anna, carl)):
            assert set(await outage.node.pay_all(payer, payee, ["0.05"] * 300)) == {200}
        outage.lose()
    async with outage.node_running():
        assert len(await outage.pending()) == 1200 > BATCH_SIZE
        await outage.tells_the_truth()
        assert await outage.node.pay(bert, carl, "10") == 202
        async with outage.settlement() as settlement:
            assert await settlement.settle_next() == 1200
            await outage.tells_the_truth()
            await outage.settle_whole(settlement)


async def test_a_batch_of_settling_whose_commit_was_not_answered_is_counted_once(outage: Outage) -> None:
    anna, bert, carl = outage.holders
    async with outage.node_running():
        outage.lose()
        for payer, payee in ((anna, bert), (bert, carl)):
            assert set(await outage.node.pay_all(payer, payee, ["0.05"] * 500)) == {202}
        async with Proxy(outage.postgres.port) as proxy, outage.settlement() as settlement:
            database = Database(proxy.dsn(outage.postgres.dsn), connections=1)
            proxy.at_commit(Cut.AFTER_COMMIT)
            with pytest.raises(DatabaseUnavailable):
                await _settlement(database, outage.node).settle_next()
            database.close()
            await outage.tells_the_truth()
            assert await outage.node.pay(carl, anna, "123.76") == 202
            assert await outage.settle_whole(settlement) == 2


async def test_what_was_booked_before_it_came_is_found_and_is_not_taken_twice(outage: Outage) -> None:
    """The node no longer knows the key, so that it could not tell."""
    anna, bert, carl = outage.holders

    def forget(store: Store) -> None:
        with store.transaction(durable=True):
            store.set_setting(KEYS_COMPLETE, "no")
            store._drop_orders(store.order_count())

    async with outage.node_running():
        assert await outage.node.pay(anna, bert, "10", key="before") == 200
        await outage.node.stand_in._node.run(forget)
        outage.lose()
        assert await outage.node.pay(anna, bert, "10", key="before") == 202
        assert set(await outage.node.pay_all(anna, carl, ["0.05"] * BATCH_SIZE)) == {202}
        assert await outage.node.expected(anna) == Decimal("79.80") - Decimal("0.06") * BATCH_SIZE
        async with outage.settlement() as settlement:
            assert await outage.settle_whole(settlement) == 2
        assert balance_of(outage.postgres, anna) == Decimal("89.90") - Decimal("0.06") * BATCH_SIZE


async def test_what_turns_out_to_be_booked_is_not_refused_by_the_operator(outage: Outage) -> None:
    anna, bert, _ = outage.holders
    async with outage.node_running():
        outage.lose()
        assert await outage.node.pay(anna, bert, "13") == 202
        assert await outage.node.pay(anna, bert, "1") == 202
        outage.postgres.execute(REJECT_13)
        async with outage.settlement() as settlement:
            with pytest.raises(SettlingStopped, match="journal refuse 1 REASON"):
                await settlement.settle_next()
            outage.postgres.execute(ALLOW_13)
            async with Proxy(outage.postgres.port) as proxy:
                database = Database(proxy.dsn(outage.postgres.dsn), connections=1)
                proxy.at_commit(Cut.AFTER_COMMIT)
                with pytest.raises(DatabaseUnavailable):
                    await _settlement(database, outage.node).settle_next()
                database.close()
            with pytest.raises(NotAwaited):
                await settlement.refuse(2, "the wrong one")
            refusal = await settlement.refuse(1, "too late")
            assert (refusal.refused, refusal.posted) == ([], [1])
            await outage.tells_the_truth()
            await outage.settle_whole(settlement)


async def test_whatever_is_cut_and_whenever_it_is_asked_for_the_truth_is_told(
    outage: Outage, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr("aiopypay.stand_in.settle.BATCH_SIZE", SMALL)
    async with outage.node_running():
        for _ in range(3):
            await _pay_at_random(outage, chance, 200)
            outage.lose(chance.choice([Cut.AFTER_COMMIT, Cut.BEFORE_COMMIT]))
            bulk = ["0.01"] * chance.choice([SMALL, 3 * SMALL])
            assert set(await outage.node.pay_all(*await _two(outage, chance), bulk)) == {202}
            await _pay_at_random(outage, chance, 202)
            await outage.tells_the_truth()
            async with Proxy(outage.postgres.port) as proxy:
                database = Database(proxy.dsn(outage.postgres.dsn), connections=1)
                settlement = _settlement(database, outage.node)
                while await settlement.pending() > 10 * SMALL or chance.random() < 0.5:
                    if chance.random() < 0.5:
                        proxy.at_commit(chance.choice([Cut.AFTER_COMMIT, Cut.BEFORE_COMMIT]))
                    with contextlib.suppress(DatabaseUnavailable):
                        await settlement.settle_next()
                    await outage.tells_the_truth()
                    await _pay_at_random(outage, chance, 202)
                    await outage.tells_the_truth()
                database.close()
            await outage.find()
            await outage.tells_the_truth()
        assert refused_orders(outage.postgres) == []


async def _pay_at_random(outage: Outage, chance: random.Random, status: int) -> None:
    for _ in range(chance.randrange(3)):
        amounts = [f"0.{chance.randrange(1, 10):02}" for _ in range(chance.choice([1, 5, 2 * SMALL]))]
        assert set(await outage.node.pay_all(*await _two(outage, chance), amounts)) == {status}


async def _two(outage: Outage, chance: random.Random) -> tuple[Holder, Holder]:
    """Who has the most pays."""
    by_wealth = {await outage.node.expected(holder): holder for holder in outage.holders}
    payer = by_wealth[max(by_wealth)]
    return payer, chance.choice([holder for holder in outage.holders if holder is not payer])


def _settlement(database: Database, node: NodeHere) -> Settlement:
    stand_in = node.stand_in
    return Settlement(database, stand_in._node, stand_in.deputy.moments, stand_in._elsewhere)
