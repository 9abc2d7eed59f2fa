"""The node's own disk: full, or damaged while the service is down; and a second process on the same directory."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .disks import TMPFS_MEBIBYTES, fill_up, limit_files, make_room, small_disk, unlimit_files
from .ledger import read_ledger
from .postgres import PostgresServer
from .service import NewService, ServiceProcess
from .site import Site, make_site

Report = Callable[[str], None]
SAMPLES = 4


class FullDisk:
    """A disk that can be full and have room again."""

    def __init__(self, fill: Callable[[], None], empty: Callable[[], None]) -> None:
        self.fill = fill
        self.empty = empty


@pytest.fixture
def min_free_mebibytes() -> int:
    """Below so much free disk nothing is accepted without the database."""
    return 0


@pytest.fixture
def service(empty_postgres: PostgresServer, new_service: NewService, min_free_mebibytes: int) -> ServiceProcess:
    """A node that has not been started yet."""
    return new_service(empty_postgres.dsn, {"APP_OFFLINE_MIN_FREE_BYTES": str(min_free_mebibytes << 20)})


@pytest.fixture(params=["tmpfs", "file-size limit"])
def disk(service: ServiceProcess, request: pytest.FixtureRequest) -> Iterator[FullDisk]:
    """The disk of the node's store."""
    store = service.data_dir / "stand-in"
    with contextlib.ExitStack() as stack:
        if request.param == "tmpfs":
            service.data_dir.mkdir(mode=0o700)
            obstacle = stack.enter_context(small_disk(store))
            if obstacle is not None:
                pytest.skip(f"no small disk can be mounted: {obstacle}")
            yield FullDisk(lambda: fill_up(store), lambda: make_room(store))
        else:
            yield FullDisk(
                # What the store's log holds by now; its files are larger than any other that the service writes.
                lambda: limit_files(service.pid, (store / "store.sqlite-wal").stat().st_size),
                lambda: unlimit_files(service.pid),
            )


@pytest.fixture
async def site(postgres: PostgresServer, service: ServiceProcess, seed: int) -> Site:
    """The node, serving."""
    service.start()
    return await make_site(postgres, service, seed)


def _store(site: Site) -> Path:
    """Where the node keeps what it must not lose."""
    return site.service.data_dir / "stand-in"


def _is_fenced(health: dict[str, Any]) -> bool:
    return health["status"] == "attention" and bool(health["fenced"])


class TestFullDisk:
    async def test_online_the_service_goes_on_and_then_does_not_stand_in(
        self, disk: FullDisk, site: Site, report: Report, seed: int
    ) -> None:
        async with site.load.running():
            await site.paid(200)
            disk.fill()
            await site.service.wait_health(_is_fenced, "the operator is told that the disk is full")
            await site.paid(200)
            await site.take_database()
            await site.paid(503)
            assert site.load.answered(202) == 0
            await site.bring_database()
            await site.paid(200)
            disk.empty()
            site.service.kill()
            site.service.start()
            await site.service.wait_ready()
            await site.service.wait_filled()
            await site.take_database()
            await site.paid(202)
            await site.bring_database()
            await site.paid(200)
        await site.finish()
        report(f"disk full while online, seed {seed}: {site.load.counts()}")

    async def test_without_the_database_nothing_is_accepted_that_is_not_on_disk(
        self, disk: FullDisk, site: Site, report: Report, seed: int
    ) -> None:
        async with site.load.running():
            await site.take_database()
            await site.paid(202)
            disk.fill()
            await site.service.wait_health(_is_fenced, "the operator is told that the disk is full")
            await site.paid(503)
            accepted = site.load.answered(202)
            await site.paid(503)
            # Retries of what is in the journal are the only ones that may be told so.
            assert site.load.answered(202) == accepted
            site.service.kill()
        with contextlib.suppress(ProcessLookupError):
            disk.empty()
        site.service.start()
        await site.service.wait_ready()
        listed = await site.service.operate("journal", "--json", "--state", "pending")
        promised = {payment.accepted.body["order_id"] for payment in site.load.payments if payment.accepted}
        assert all(order_id in listed for order_id in promised)
        await site.bring_database()
        await site.service.wait_mode("online")
        await site.finish()
        report(f"disk full in stand-in, seed {seed}: {site.load.counts()}")

    async def test_the_journal_is_settled_once_there_is_room(self, disk: FullDisk, site: Site) -> None:
        """A disk that was full is tried again; after any other error nothing more is written before a restart."""
        async with site.load.running():
            await site.take_database()
            await site.paid(202)
            disk.fill()
            await site.service.wait_health(_is_fenced, "the operator is told that the disk is full")
            await site.bring_database()
            await site.service.wait_health(
                lambda health: bool(health["settling_waits_for"]), "the operator is told what settling waits for"
            )
            disk.empty()
            if "I/O error" in (await site.service.health())["settling_waits_for"]:
                site.service.kill()
                site.service.start()
                await site.service.wait_ready()
            await site.service.wait_mode("online")
            await site.paid(200)
        await site.finish()


@pytest.mark.parametrize("disk", ["tmpfs"], indirect=True)
class TestRoomAgain:
    """A disk that was full, and nothing else, needs no restart."""

    async def test_online_the_node_reads_all_anew_and_then_stands_in(
        self, disk: FullDisk, site: Site, report: Report, seed: int
    ) -> None:
        async with site.load.running():
            await site.paid(200)
            disk.fill()
            await site.service.wait_health(_is_fenced, "the operator is told that the disk is full")
            await site.paid(200)
            disk.empty()
            await self._is_well(site)
            await site.service.wait_filled()
            await site.paid(200)
            await site.take_database()
            await site.paid(202)
            site.service.kill()
            site.service.start()
            await site.service.wait_ready()
            await site.paid(202)
            await site.bring_database()
            await site.paid(200)
        await site.finish()
        report(f"room again while online, seed {seed}: {site.load.counts()}")

    async def test_without_the_database_it_goes_on_from_what_is_in_the_journal(
        self, disk: FullDisk, site: Site, report: Report, seed: int
    ) -> None:
        async with site.load.running():
            await site.take_database()
            for _ in range(2):
                await site.paid(202)
                disk.fill()
                await site.service.wait_health(_is_fenced, "the operator is told that the disk is full")
                await site.paid(503)
                disk.empty()
                await self._is_well(site)
            await site.paid(202)
            site.service.kill()
            site.service.start()
            await site.service.wait_ready()
            await site.paid(202)
            await site.bring_database()
            await site.paid(200)
        await site.finish()
        report(f"room again in stand-in, seed {seed}: {site.load.counts()}")

    async def _is_well(self, site: Site) -> None:
        await site.service.wait_health(lambda health: health["fenced"] is None, "the node goes on by itself")


@pytest.mark.parametrize("disk", ["tmpfs"], indirect=True)
class TestFloor:
    @pytest.fixture
    def min_free_mebibytes(self) -> int:
        """Half of the disk."""
        return TMPFS_MEBIBYTES // 2

    async def test_below_it_no_new_order_is_accepted_and_all_that_were_are_settled(
        self, disk: FullDisk, site: Site
    ) -> None:
        async with site.load.running():
            await site.take_database()
            await site.paid(202)
            fill_up(_store(site), leave_bytes=TMPFS_MEBIBYTES // 4 << 20)
            await site.paid(503)
            health = await site.service.health()
            assert health["status"] == "attention"
            assert "APP_OFFLINE_MIN_FREE_BYTES" in health["disk"]
            assert health["fenced"] is None
            refused = [
                answer.body for payment in site.load.payments for answer in payment.answers if answer.status == 503
            ]
            assert "/problems/offline-disk-floor" in {body["type"] for body in refused}
            await site.bring_database()
            await site.paid(200)
            await site.take_database()
            await site.paid(503)
            disk.empty()
            await site.paid(202)
            await site.bring_database()
            await site.paid(200)
        await site.finish()


@pytest.fixture
async def journal(site: Site) -> AsyncIterator[dict[str, bytes]]:
    """The files of a stopped node with payments to settle. In the end they are put back, and all of it is booked."""
    await site.take_database()
    async with site.load.running():
        await site.paid(202)
        site.service.kill()
    files = {path.name: path.read_bytes() for path in _store(site).iterdir() if path.is_file()}
    yield files
    if site.service.is_running():
        site.service.kill()
    _put(_store(site), files)
    await site.bring_database()
    site.service.start()
    await site.service.wait_ready()
    await site.service.wait_mode("online")
    await site.finish()


def _put(store: Path, files: dict[str, bytes]) -> None:
    for path in store.iterdir():
        path.unlink()
    for name, content in files.items():
        (store / name).write_bytes(content)


def _damaged(files: dict[str, bytes], generator: random.Random) -> tuple[str, dict[str, bytes]]:
    name = generator.choice([name for name in files if name in ("store.sqlite", "store.sqlite-wal", "tail", "key")])
    content = bytearray(files[name])
    place = generator.randrange(len(content))
    if generator.random() < 0.7:
        bit = generator.randrange(8)
        content[place] ^= 1 << bit
        return f"bit {bit} of byte {place} of {name} is flipped", {**files, name: bytes(content)}
    return f"{name} is cut to {place} of {len(content)} bytes", {**files, name: bytes(content[:place])}


class TestDamage:
    async def test_it_is_detected_or_changes_no_entry(
        self, site: Site, journal: dict[str, bytes], rounds: int, seed: int, report: Report
    ) -> None:
        generator = random.Random(seed)
        entries = await self._entries(site)
        assert len(entries) >= 10
        for _ in range(max(SAMPLES, 4 * (rounds - SAMPLES))):
            what, files = _damaged(journal, generator)
            _put(_store(site), files)
            site.service.start()
            await site.service.wait_ready()
            health = await site.service.health()
            if health["fenced"]:
                assert health["fenced"] in site.service.whole_log(), what
                assert await self._payment_status(site) == 503, what
            else:
                assert await self._entries(site) == entries, what
            report(f"damage, seed {seed}: {what}: {health['fenced'] or 'changes no entry'}")
            site.service.kill()

    @pytest.mark.parametrize("name", ["store.sqlite-wal", "tail"])
    async def test_nothing_is_settled_from_a_damaged_store(
        self, site: Site, journal: dict[str, bytes], name: str
    ) -> None:
        cut = len(journal[name]) // 2 if name != "tail" else 0
        _put(_store(site), {**journal, name: journal[name][:cut]})
        await site.bring_database()
        before = self._orders(site)
        site.service.start()
        await site.service.wait_ready()
        health = await site.service.health()

        assert _is_fenced(health)
        assert health["mode"] == "stand-in"
        assert await self._payment_status(site) == 503
        assert self._orders(site) == before
        assert "damage" in (await site.service.operate("journal", "--json")) + site.service.whole_log()
        await site.take_database()

    async def _entries(self, site: Site) -> list[str]:
        return (await site.service.operate("journal", "--json", "--state", "pending")).splitlines()

    async def _payment_status(self, site: Site) -> int | None:
        await site.load.send_one()
        return site.load.payments[-1].answers[-1].status

    def _orders(self, site: Site) -> int:
        with site.postgres.connected() as connection:
            return len(read_ledger(connection).orders)


class TestDirectory:
    async def test_a_second_process_is_told_that_it_is_taken(self, site: Site) -> None:
        ended = await asyncio.to_thread(site.service.run, "serve")

        assert ended.returncode == 1
        assert "is in use by another aiopypay" in ended.stderr.splitlines()[-1]
        assert "Traceback" not in ended.stderr
        assert (await site.service.health())["status"] == "ok"
