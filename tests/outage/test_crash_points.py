"""kill -9 of the service at named points, under load: what it finds at its next start is always enough."""

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import aiohttp
import pytest

from .checker import check
from .conftest import ROUNDS
from .crash import POINTS
from .load import Load, Payment, Person, register_people, the_superuser
from .postgres import PostgresServer
from .rounds import PEOPLE
from .service import ServiceProcess
from .waiting import eventually

SIGKILLED = -9
DIES_SECONDS = 20
BACK_SECONDS = 20

OFFLINE = {"before the journal's sync", "between the journal's sync and its tail", "after the journal's sync"}
SETTLING = {
    "before COMMIT at settling",
    "after COMMIT at settling",
    "before entries are marked",
    "after entries are marked",
    "before switching online",
    "in the middle of switching online",
    "after switching online",
    "after the settled journal is pruned",
}
STARTING = {"before the last run's plan is adopted", "after the last run's plan is adopted"}
# Reached once, or seldom: there is no second time to die at.
ONCE = SETTLING | STARTING | {point for point in POINTS if "adopted" in point or "withdrawn" in point}


@dataclass
class Site:
    """One node and all that was ever paid through it: each crash adds to the history that the next one starts from."""

    postgres: PostgresServer
    service: ServiceProcess
    people: list[Person]
    payments: list[Payment] = field(default_factory=list)


@pytest.fixture(scope="module")
def site(cluster: PostgresServer) -> Iterator[Site]:
    """A node that knows some people."""
    cluster.thaw()
    cluster.start()
    cluster.new_database()
    service = ServiceProcess(cluster.dsn)

    async def begin() -> list[Person]:
        service.start()
        await service.wait_ready()
        people = [the_superuser(), *await register_people(service.base_url, PEOPLE)]
        await service.wait_filled()
        await service.terminate()
        return people

    try:
        yield Site(cluster, service, asyncio.run(begin()))
    finally:
        service.remove()


@pytest.mark.parametrize("point", POINTS)
async def test_kill_9(
    site: Site, point: str, rounds: int, seed: int, report: Callable[[str], None], request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: print(site.service.log()))  # noqa: T201 - pytest shows it where the test fails
    for number in range(1 if rounds <= ROUNDS else rounds):
        await _round(site, point, seed + number, report)


async def _round(site: Site, point: str, seed: int, report: Callable[[str], None]) -> None:
    generator = random.Random(f"{seed}/{point}")
    is_down = generator.random() < 0.5
    count = 1 if point in ONCE else generator.randint(1, 20)
    site.postgres.start()
    if site.service.is_running():
        # A test before this one failed.
        site.service.kill()
    # Few, so that the service starts fast although they ask for it all the time.
    load = Load(site.service.base_url, site.people, seed, clients=6)
    if point in STARTING:
        _start(site, "after COMMIT", generator.randint(1, 20))
    else:
        _start(site, point, count)
    await eventually(lambda: _serves_or_is_dead(site), BACK_SECONDS, "the service serves")
    async with load.running():
        if point in OFFLINE | SETTLING:
            await _reached(site, lambda: load.answered(200) > 0, "payments")
            await asyncio.to_thread(site.postgres.stop)
        if point in SETTLING:
            wanted = generator.randint(1, 400)
            await _reached(site, lambda: load.answered(202) >= wanted, "payments without the database")
            await asyncio.to_thread(site.postgres.start)
        await _dies(site, point)
        if point in STARTING:
            if is_down:
                await asyncio.to_thread(site.postgres.stop)
            _start(site, point, count)
            await _dies(site, point)
        await _comes_back(site, load, is_down=is_down)
    await load.resolve()
    await load.follow()
    await site.service.wait_mode("online", BACK_SECONDS)
    await site.service.terminate()
    site.payments += load.payments
    how = "down" if is_down else "up"
    report(f"kill -9 {point}, call {count}, started with the database {how}, seed {seed}: {load.counts()}")
    with site.postgres.connected() as connection:
        check(connection, site.payments)


def _start(site: Site, point: str, count: int) -> None:
    site.service.start(command=["-m", "tests.outage.crash", point, str(count)])


async def _reached(site: Site, condition: Callable[[], bool], what: str) -> None:
    await eventually(lambda: condition() or not site.service.is_running(), BACK_SECONDS, what)


async def _serves_or_is_dead(site: Site) -> bool:
    """On a slow machine the start itself may lose the database and find it again, and so come to the point."""
    if not site.service.is_running():
        return True
    try:
        await site.service.health()
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False
    return True


async def _dies(site: Site, point: str) -> None:
    await eventually(lambda: not site.service.is_running(), DIES_SECONDS, f"the service dies {point}")
    assert site.service.exit_status == SIGKILLED


async def _comes_back(site: Site, load: Load, *, is_down: bool) -> None:
    await asyncio.to_thread(site.postgres.stop if is_down else site.postgres.start)
    site.service.start()
    await site.service.wait_ready()
    if is_down:
        before = load.answered(202)
        await eventually(lambda: load.answered(202) > before + 10, BACK_SECONDS, "payments without the database")
        await asyncio.to_thread(site.postgres.start)
    before = load.answered(200)
    await eventually(lambda: load.answered(200) > before + 10, BACK_SECONDS, "payments with the database")
