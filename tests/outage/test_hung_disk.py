"""The node's own disk hangs, or is slow, while its database is well, or is away too."""

import asyncio
import contextlib
import errno
import threading
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import pytest

from aiopypay.stand_in import disk as disks

from .caller import Told, call, order
from .disks import freezable_disk
from .node import NodeHere, add_holders, balance_of, running
from .postgres import PostgresServer
from .service import NewService, ServiceProcess
from .shop import Shop, open_shop
from .stuck import LOOK_SECONDS, PATIENCE, SILENT_LOOKS
from .waiting import Stopwatch, eventually

AT_ONCE_SECONDS = 1.0
TOLD_SECONDS = LOOK_SECONDS * (SILENT_LOOKS + 3)
STOPPED_SECONDS = TOLD_SECONDS + 4
SLOW_SYNC_SECONDS = 2.0
OPEN_TRANSACTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start < now()"


class Hanging(Protocol):
    """A disk that hangs, and goes on."""

    def hang(self) -> None:
        """From now on."""

    def go_on(self) -> None:
        """What hung is done."""


class StuckSyncs:
    """Syncs that do not return; what is only written is written."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def hang(self) -> None:
        """From now on."""
        self._file.touch()

    def take(self, seconds: float) -> None:
        """From now on each takes so long."""
        self._file.write_text(str(seconds))

    def go_on(self) -> None:
        """What hung is done."""
        self._file.unlink(missing_ok=True)


class HangingShop:
    """A shop, and the disk of its node."""

    def __init__(self, shop: Shop, disk: Hanging, file: Path) -> None:
        self.shop = shop
        self.service = shop.service
        self.disk = disk
        self._file = file

    def start(self) -> None:
        """The node's next start, on the same disk."""
        _start(self.service, self._file)

    async def hangs(self) -> None:
        """Returns when the operator is told."""
        await self.service.wait_health(
            lambda health: health["status"] == "attention" and "disk" in (health["disk"] or ""),
            "the operator is told that the disk hangs",
            TOLD_SECONDS,
        )

    async def is_well(self) -> None:
        """Returns when the operator is told so."""
        await self.service.wait_health(lambda health: health["disk"] is None, "the disk answers")

    async def order_id(self, key: str) -> str:
        """Retries Anna's payment of 10 until it is booked; returns its order."""
        told: Told | None = None

        async def is_booked() -> bool:
            nonlocal told
            told = await self.shop.pay("10", key=key)
            return told.status == 200

        await eventually(is_booked, 15, f"it is booked ({told})")
        assert told is not None
        return str(told.body["order_id"])

    async def check_paid(self, times: int) -> None:
        """Anna has paid 10 so many times, here and in the database."""
        expected = Decimal(300) - times * Decimal("10.10")
        assert await self.shop.balance() == expected
        assert self.shop.postgres.execute("SELECT amount FROM accounts WHERE id = %s", self.shop.from_id) == [
            (expected,)
        ]


def _start(service: ServiceProcess, file: Path, *, usual_patience: bool = False) -> None:
    environment = {PATIENCE: "yes"} if usual_patience else {}
    service.start(command=("-m", "tests.outage.stuck", str(file)), environment=environment)


@pytest.fixture(params=["frozen file system", "stuck syncs"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def hanging(
    way: str, empty_postgres: PostgresServer, new_service: NewService, tmp_path: Path
) -> AsyncIterator[HangingShop]:
    """The database is up, and the disk well. Anna has 300.00."""
    file = tmp_path / "stuck"
    disks: list[Hanging] = []
    with contextlib.ExitStack() as stack:

        def start(service: ServiceProcess) -> None:
            disks.append(stack.enter_context(_disk(way, service, file, tmp_path)))
            _start(service, file)

        async with open_shop(empty_postgres, new_service, {"APP_OFFLINE_MIN_FREE_BYTES": "0"}, start) as shop:
            hanging = HangingShop(shop, disks[0], file)
            yield hanging
            hanging.disk.go_on()
            if shop.service.is_running():
                shop.service.kill()


@contextlib.contextmanager
def _disk(way: str, service: ServiceProcess, file: Path, tmp_path: Path) -> Iterator[Hanging]:
    if way == "stuck syncs":
        yield StuckSyncs(file)
        return
    service.data_dir.mkdir(mode=0o700)
    with freezable_disk(service.data_dir / "stand-in", tmp_path / "image") as disk:
        if isinstance(disk, str):
            pytest.skip(f"no disk can be frozen here: {disk}")
        yield disk


class TestHungDisk:
    async def test_reads_go_on_and_what_would_book_or_change_is_told_that_the_disk_hangs(
        self, hanging: HangingShop
    ) -> None:
        shop, service = hanging.shop, hanging.service
        hanging.disk.hang()
        first = asyncio.create_task(shop.pay("10", key="first"))
        watch = Stopwatch()
        while not first.done():
            before = watch.seconds
            assert (await service.health())["mode"] == "online"
            assert await shop.balance() == 300
            assert watch.seconds - before < AT_ONCE_SECONDS
        told = await first
        assert (told.status, told.problem, told.headers["Retry-After"]) == (503, "disk-hangs", "5")
        assert told.body["detail"].startswith("Outcome unknown: the disk")
        assert watch.seconds < TOLD_SECONDS + AT_ONCE_SECONDS
        await hanging.hangs()
        # What looks for changes each second may run at the very moment.
        await eventually(
            lambda: shop.postgres.execute(OPEN_TRANSACTIONS) == [(0,)], AT_ONCE_SECONDS, "no transaction is left open"
        )

        watch = Stopwatch()
        for told in [
            await shop.pay("10", key="first"),
            await shop.pay("10"),
            await shop.send("each", [shop.transfer("1")]),
            await _register(service, "cleo"),
            await _change_password(shop),
        ]:
            assert (told.status, told.problem) == (503, "disk-hangs"), told
            assert "disk" in told.body["detail"]
        assert watch.seconds < 5 * AT_ONCE_SECONDS
        assert (await service.health())["fenced"] is None

        hanging.disk.go_on()
        await hanging.is_well()
        await hanging.order_id("first")
        await hanging.order_id("second")
        await hanging.check_paid(2)
        assert (await _register(service, "cleo")).status == 201
        assert (await _change_password(shop)).status < 300
        await service.wait_filled()
        assert (await service.health())["status"] == "ok"
        assert "Mode: stand-in" not in service.whole_log()

    async def test_what_hung_when_the_process_was_killed_is_booked_once(self, hanging: HangingShop) -> None:
        hanging.disk.hang()
        assert (await hanging.shop.pay("10", key="first")).problem == "disk-hangs"
        hanging.service.send_kill()
        hanging.disk.go_on()
        await hanging.service.wait_exit()
        hanging.start()
        await hanging.service.wait_ready()
        await hanging.shop.is_online()
        assert await hanging.order_id("first") == await hanging.order_id("first")
        await hanging.check_paid(1)

    @pytest.mark.parametrize("is_told", [True, False], ids=["told", "not told yet"])
    async def test_it_stops_when_asked_to_and_what_it_answered_stays(self, hanging: HangingShop, is_told: bool) -> None:
        shop, service = hanging.shop, hanging.service
        booked = await hanging.order_id("first")
        hanging.disk.hang()
        unknown = asyncio.create_task(shop.pay("10", key="second"))
        if is_told:
            await hanging.hangs()
        else:
            await eventually(
                lambda: shop.postgres.execute(OPEN_TRANSACTIONS) != [(0,)], TOLD_SECONDS, "the payment is being booked"
            )
        service.send_stop()
        assert (await unknown).status == 503
        if isinstance(hanging.disk, StuckSyncs):
            assert await service.wait_exit(STOPPED_SECONDS) == 0
            hanging.disk.go_on()
        else:
            # The kernel lets no process go that waits for its disk; all else of it has ended by then.
            await eventually(lambda: "Stopping without the disk" in service.whole_log(), STOPPED_SECONDS, "it stops")
            hanging.disk.go_on()
            assert await service.wait_exit(STOPPED_SECONDS) == 0
        assert "Traceback" not in service.whole_log()
        hanging.start()
        await service.wait_ready()
        await shop.is_online()
        assert await hanging.order_id("first") == booked
        await hanging.order_id("second")
        await hanging.check_paid(2)

    async def test_without_the_database_too_an_entry_that_hung_is_found_by_a_retry(self, hanging: HangingShop) -> None:
        shop = hanging.shop
        await shop.take_database()
        await shop.accepted("10", key="first")
        hanging.disk.hang()
        told = await shop.pay("10", key="second")
        assert (told.status, told.problem) == (503, "disk-hangs")
        assert told.body["detail"].startswith("Outcome unknown: the disk")
        watch = Stopwatch()
        assert (await shop.pay("10", key="second")).problem == "disk-hangs"
        read = await call(hanging.service.base_url, "GET", f"/accounts/{shop.from_id}", shop.anna.headers)
        assert (read.status, read.problem) == (503, "disk-hangs")
        health = await hanging.service.health()
        assert (health["status"], health["mode"], health["journal"]["pending"]) == ("attention", "stand-in", 1)
        assert watch.seconds < 3 * AT_ONCE_SECONDS

        hanging.disk.go_on()
        await hanging.is_well()
        accepted = await shop.accepted("10", key="second")
        assert await shop.balance() == Decimal(300) - 2 * Decimal("10.10")
        await shop.bring_database()
        await shop.is_online()
        assert (await order(hanging.service.base_url, shop.anna, accepted)).body["status"] == "posted"
        await hanging.check_paid(2)

    async def test_a_database_lost_meanwhile_is_stood_in_for_once_the_disk_answers(self, hanging: HangingShop) -> None:
        shop = hanging.shop
        hanging.disk.hang()
        unknown = asyncio.create_task(shop.pay("10", key="first"))
        await shop.take_database()
        assert (await unknown).status == 503
        await hanging.hangs()
        assert (await shop.pay("10", key="first")).status == 503
        hanging.disk.go_on()
        await hanging.is_well()
        await shop.accepted("10", key="first")
        await shop.bring_database()
        await shop.is_online()
        await hanging.order_id("first")
        await hanging.check_paid(1)


class TestSlowDisk:
    async def test_payments_go_on_at_its_pace_and_no_mode_changes(
        self, empty_postgres: PostgresServer, new_service: NewService, tmp_path: Path
    ) -> None:
        disk = StuckSyncs(tmp_path / "stuck")

        def start(service: ServiceProcess) -> None:
            _start(service, tmp_path / "stuck", usual_patience=True)

        async with open_shop(empty_postgres, new_service, {}, start) as shop:
            disk.take(SLOW_SYNC_SECONDS)
            watch = Stopwatch()
            told = await asyncio.gather(*(shop.pay("10") for _ in range(10)))
            assert [one.status for one in told] == [200] * 10, told
            # One plan takes two syncs. Meanwhile the transaction is open for longer than PostgreSQL lets one be idle.
            assert watch.seconds > 2 * SLOW_SYNC_SECONDS
            disk.go_on()
            assert (await shop.pay("10")).status == 200
            health = await shop.service.health()
            assert (health["status"], health["mode"], health["fenced"]) == ("ok", "online", None)
            log = shop.service.whole_log()
            assert not [line for line in log.splitlines() if "ERROR" in line or "CRITICAL" in line], log


async def _register(service: ServiceProcess, username: str) -> Told:
    return await call(service.base_url, "POST", "/users", {}, {"username": username, "password": "secret password"})


async def _change_password(shop: Shop) -> Told:
    return await call(
        shop.service.base_url,
        "PATCH",
        "/api/users/me",
        shop.bert.headers,
        {"current_password": shop.bert.password, "password": shop.bert.password},
    )


class TestFailingDisk:
    async def test_what_hung_and_then_failed_is_not_judged_again_before_the_next_start(
        self, migrated_postgres: PostgresServer, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        anna, bert = add_holders(migrated_postgres, 2)
        go_on = threading.Event()
        async with running(migrated_postgres.dsn, directory, killed=True) as node:
            await node.filled()
            _hang_and_fail(node, monkeypatch, go_on)
            assert await node.pay(anna, bert, "10", key="first") == 503
            assert node.stand_in.report().disk
            assert node.stand_in.report().fenced is None
            go_on.set()
            await eventually(lambda: node.stand_in.report().disk is None, TOLD_SECONDS, "nothing is left to do")
            assert node.stand_in.report().fenced
            # Others go on without the disk. This one may be on it, and would be booked although it was refused.
            assert await node.pay(anna, bert, "95") == 200
            assert await node.pay(anna, bert, "10", key="first") == 503
            assert balance_of(migrated_postgres, bert) == 195
            assert await node.pay(bert, anna, "95") == 200
        async with running(migrated_postgres.dsn, directory) as node:
            await node.online()
            assert await node.pay(anna, bert, "10", key="first") == 200
            assert await node.pay(anna, bert, "10", key="first") == 200
        assert balance_of(migrated_postgres, bert) == 100 + 95 - Decimal("95.95") + 10


def _hang_and_fail(node: NodeHere, monkeypatch: pytest.MonkeyPatch, go_on: threading.Event) -> None:
    tail = node.store._tail
    assert tail is not None

    def hang(*_: Any, **__: Any) -> None:
        assert go_on.wait(TOLD_SECONDS * 10)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(tail, "write", hang)
    monkeypatch.setattr(disks, "LOOK_SECONDS", LOOK_SECONDS)
    monkeypatch.setattr(disks, "SILENT_LOOKS", SILENT_LOOKS)
