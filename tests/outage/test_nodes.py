"""Two nodes on one database: one of them stands in, what it may overspend is bounded, and refusals are visible."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from .caller import Told, account_in, balance, call, order, pay
from .checker import check
from .clock import LIBRARIES, MISSING, Clock
from .load import Load, Person, register_people
from .postgres import PostgresServer
from .proxy import Proxy
from .rounds import PEOPLE
from .service import NewService, ServiceProcess
from .waiting import eventually

MAX_DEBIT = "50"
# The promise: the holder has seen the others' changes by then.
FOLLOW_SECONDS = 2.5


@dataclass
class Nodes:
    """`first` holds the lease and reaches the database through the proxy; `second` reaches it directly."""

    postgres: PostgresServer
    proxy: Proxy
    first: ServiceProcess
    second: ServiceProcess
    people: list[Person]

    @property
    def anna(self) -> Person:
        """She pays."""
        return self.people[0]

    async def pay(self, node: ServiceProcess, amount: str, key: str | None = None) -> Told:
        """Anna pays Bert in dollars."""
        bert = self.people[1]
        return await pay(node.base_url, self.anna, account_in(self.anna, "USD"), account_in(bert, "USD"), amount, key)

    async def without_database(self) -> None:
        """Stops PostgreSQL; returns when both nodes know."""
        await asyncio.to_thread(self.postgres.stop)
        for node in (self.first, self.second):
            if node.is_running():
                await eventually(lambda node=node: self._is_down(node), 5, "the node notices")  # type: ignore[misc]

    async def with_database(self) -> None:
        """Starts PostgreSQL; returns when both nodes are online."""
        await asyncio.to_thread(self.postgres.start)
        for node in (self.first, self.second):
            if node.is_running():
                await node.wait_mode("online")

    async def _is_down(self, node: ServiceProcess) -> bool:
        await call(node.base_url, "GET", "/currencies", {})
        return bool((await node.health())["mode"] == "stand-in")


@pytest.fixture
def settings() -> dict[str, str]:
    """The settings of both."""
    return {"APP_OFFLINE_MAX_DEBIT": MAX_DEBIT}


@pytest.fixture
async def nodes(
    empty_postgres: PostgresServer, new_service: NewService, settings: dict[str, str]
) -> AsyncIterator[Nodes]:
    """Both run; each remembers everybody, and knows of the other."""
    async with Proxy(empty_postgres.port) as proxy:
        first = new_service(proxy.dsn(empty_postgres.dsn), settings)
        first.start()
        await first.wait_ready()
        people = await register_people(first.base_url, PEOPLE[:4])
        await first.wait_filled()
        second = new_service(empty_postgres.dsn, settings)
        second.start()
        await second.wait_ready()
        await second.wait_filled()
        # Told again, now that there are two.
        await eventually(lambda: first.whole_log().count("Stand-in lease: held") > 1, 5, "the first knows the second")
        yield Nodes(empty_postgres, proxy, first, second, people)


def _does_not_stand_in(told: Told) -> None:
    assert (told.status, told.problem) == (503, "stand-in-fenced"), told
    assert int(told.headers["Retry-After"]) > 0


class TestLease:
    async def test_only_its_holder_stands_in(self, nodes: Nodes) -> None:
        assert (await nodes.first.health())["lease"]
        assert not (await nodes.second.health())["lease"]
        await nodes.without_database()

        assert (await nodes.pay(nodes.first, "1")).status == 202
        _does_not_stand_in(await nodes.pay(nodes.second, "1"))
        await nodes.with_database()

        # It does not expire: the other one has not taken it meanwhile.
        assert (await nodes.first.health())["lease"]

    async def test_a_clean_stop_hands_it_over(self, nodes: Nodes) -> None:
        await nodes.first.terminate()
        await nodes.second.wait_health(lambda health: bool(health["lease"]), "the other node holds the lease", 5)
        # One that has followed nobody yet reads all anew.
        await nodes.second.wait_filled()
        await nodes.without_database()
        nodes.first.start()
        await nodes.first.wait_ready()

        assert (await nodes.pay(nodes.second, "1")).status == 202
        _does_not_stand_in(await nodes.pay(nodes.first, "1"))
        await nodes.with_database()

    async def test_a_kill_does_not(self, nodes: Nodes) -> None:
        nodes.first.kill()
        await asyncio.sleep(FOLLOW_SECONDS)
        assert not (await nodes.second.health())["lease"]
        await nodes.without_database()

        _does_not_stand_in(await nodes.pay(nodes.second, "1"))
        nodes.first.start()
        await nodes.first.wait_ready()
        assert (await nodes.pay(nodes.first, "1")).status == 202
        await nodes.with_database()

    async def test_the_operator_moves_it(self, nodes: Nodes) -> None:
        listed = (await nodes.second.operate("lease")).splitlines()
        assert len(listed) == 2
        (holder,) = [line for line in listed if "stands in" in line]
        (other,) = [line for line in listed if "stands in" not in line]
        assert "stands in from now on" in await nodes.first.operate("lease", "move", other.split()[0])
        await nodes.second.wait_health(lambda health: bool(health["lease"]), "the lease has moved", 5)
        await nodes.first.wait_health(lambda health: not health["lease"], "the lease has moved", 5)
        await nodes.without_database()

        assert (await nodes.pay(nodes.second, "1")).status == 202
        _does_not_stand_in(await nodes.pay(nodes.first, "1"))
        await nodes.with_database()
        moved = next(line for line in (await nodes.second.operate("lease")).splitlines() if "stands in" in line)
        assert moved.split()[0] == other.split()[0] != holder.split()[0]

    async def test_it_cannot_move_to_a_node_that_there_is_not(self, nodes: Nodes) -> None:
        nobody = "00000000-0000-4000-8000-000000000000"
        ended = await asyncio.to_thread(nodes.first.run, "lease", "move", nobody)

        assert ended.returncode == 1
        assert nobody in ended.stderr


class TestNoCap:
    @pytest.fixture
    def settings(self) -> dict[str, str]:
        """Two nodes, and nothing that bounds what they could both spend."""
        return {}

    async def test_nobody_stands_in(self, nodes: Nodes) -> None:
        await nodes.without_database()

        for node in (nodes.first, nodes.second):
            _does_not_stand_in(await nodes.pay(node, "1"))
        assert "APP_OFFLINE_MAX_DEBIT" in (await nodes.first.health())["fenced"]
        await nodes.with_database()


class TestFollowing:
    async def test_the_holder_has_seen_what_others_booked_and_registered(self, nodes: Nodes) -> None:
        assert (await nodes.pay(nodes.second, "120")).status == 200
        (newcomer,) = await register_people(nodes.second.base_url, ["newcomer"])
        await asyncio.sleep(FOLLOW_SECONDS)
        await nodes.without_database()

        dollars = account_in(nodes.anna, "USD")
        assert await balance(nodes.first.base_url, nodes.anna, dollars) == Decimal("178.80")
        assert await balance(nodes.first.base_url, newcomer, account_in(newcomer, "EUR")) == Decimal(300)
        paid = await pay(
            nodes.first.base_url, newcomer, account_in(newcomer, "USD"), account_in(nodes.anna, "USD"), "10"
        )
        assert paid.status == 202
        await nodes.with_database()

    async def test_a_retry_at_another_node_gets_the_original_answer(self, nodes: Nodes) -> None:
        original = await nodes.pay(nodes.second, "1", key="once")
        await asyncio.sleep(FOLLOW_SECONDS)
        await nodes.without_database()

        again = await nodes.pay(nodes.first, "1", key="once")

        assert (again.status, again.body) == (200, original.body)
        await nodes.with_database()

    @pytest.mark.skipif(not LIBRARIES, reason=MISSING)
    async def test_it_knows_no_clock(self, nodes: Nodes, tmp_path: Path) -> None:
        """The holder's clock is a day ahead of the database's."""
        clock = Clock(tmp_path)
        clock.shift("+1d")
        nodes.first.kill()
        nodes.first.start(environment=clock.environment)
        await nodes.first.wait_ready()
        await nodes.first.wait_filled()
        (newcomer,) = await register_people(nodes.second.base_url, ["newcomer"])
        await asyncio.sleep(FOLLOW_SECONDS)
        await nodes.without_database()

        assert await balance(nodes.first.base_url, newcomer, account_in(newcomer, "EUR")) == Decimal(300)
        await nodes.with_database()


class TestOverspending:
    async def test_what_cannot_be_booked_is_refused_for_all_to_see(self, nodes: Nodes) -> None:
        """The holder alone has lost the database; meanwhile the other node spends the same money."""
        nodes.proxy.black_hole()
        accepted = await nodes.pay(nodes.first, "40", key="offline")
        assert accepted.status == 202
        capped = await nodes.pay(nodes.first, "40", key="too-much")
        assert (capped.status, capped.problem) == (503, "offline-debit-cap")
        assert (await nodes.pay(nodes.second, "290")).status == 200
        nodes.proxy.heal()
        await nodes.first.wait_mode("online")

        for node in (nodes.first, nodes.second):
            shown = await order(node.base_url, nodes.anna, accepted.body["order_id"])
            assert (shown.status, shown.body["status"], shown.body["transfers"]) == (200, "refused", [])
            assert "Insufficient funds" in shown.body["reason"]
            again = await nodes.pay(node, "40", key="offline")
            assert (again.status, again.problem) == (409, "order-refused")
            assert accepted.body["order_id"] in again.body["detail"]
        assert (await nodes.first.health())["refused_at_settling"] == 1
        assert accepted.body["order_id"] in await nodes.first.operate("journal", "--state", "refused")

    async def test_it_is_bounded_and_nothing_is_booked_twice(
        self, nodes: Nodes, seed: int, report: Callable[[str], None]
    ) -> None:
        """Both nodes are paid through, while one of them stands in; then each payment is retried at the other one."""
        loads = [
            Load(node.base_url, nodes.people, seed + number, clients=6)
            for number, node in enumerate((nodes.first, nodes.second))
        ]
        async with loads[0].running(), loads[1].running():
            await eventually(lambda: loads[1].answered(200) > 20, 20, "payments")
            nodes.proxy.black_hole()
            await eventually(lambda: loads[0].answered(202) > 100, 20, "payments without the database")
            nodes.proxy.heal()
            await loads[1].retry_elsewhere(loads[0].payments)
            await nodes.first.wait_mode("online")
            before = loads[0].answered(200)
            await eventually(lambda: loads[0].answered(200) > before + 20, 20, "payments after the fault")
        for load in loads:
            await load.resolve()
            await load.follow(everything=True)
        payments = [payment for load in loads for payment in load.payments]
        refused: dict[int, Decimal] = defaultdict(Decimal)
        for payment in payments:
            if payment.outcome is not None and payment.outcome["status"] == "refused":
                refused[payment.from_account_id] += payment.amount
        report(
            f"two nodes, seed {seed}: {loads[0].counts()} | {loads[1].counts()} | refused at settling "
            f"{sum(refused.values())} from {len(refused)} accounts"
        )
        assert all(amount <= Decimal(MAX_DEBIT) for amount in refused.values())
        with nodes.postgres.connected() as connection:
            check(connection, payments, nodes=2)
