"""A standby takes the primary's place: the service finds it, loses nothing, and books nothing at the old one any more.

What synchronous replication promises is a condition of it: what the primary has answered, the standby has.
"""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from psycopg2.extensions import make_dsn

from .pair import Pair, running_pair
from .postgres import PostgresServer
from .proxy import Proxy
from .service import NewService
from .site import Site, make_site
from .waiting import eventually

CLOSED_SECONDS = 5
# Fewer than the service is patient for.
START_SECONDS = 25


@pytest.fixture
def pair(empty_postgres: PostgresServer) -> Iterator[Pair]:
    with running_pair(empty_postgres) as pair:
        yield pair


def _standby_first(pair: Pair) -> str:
    return pair.dsn(pair.new, pair.old)


def _primary_first(pair: Pair) -> str:
    return pair.dsn(pair.old, pair.new)


@pytest.fixture
async def site(request: pytest.FixtureRequest, pair: Pair, new_service: NewService, seed: int) -> Site:
    """The service has started for the first time, and applied the migrations, where a standby may stand first."""
    service = new_service(request.param(pair))
    service.start()
    return await make_site(pair.old, service, seed)


standby_first = pytest.mark.parametrize("site", [_standby_first], indirect=True)
primary_first = pytest.mark.parametrize("site", [_primary_first], indirect=True)
in_any_order = pytest.mark.parametrize("site", [_standby_first, _primary_first], indirect=True)


async def _finish(site: Site, pair: Pair) -> None:
    """Every payment has its outcome where the service is now, and the ledger holds there."""
    site.postgres = pair.new
    await site.finish()


async def _fails_over(site: Site, pair: Pair, lose: Callable[[], None]) -> None:
    """Loses the primary under load and promotes the standby: paid before, meanwhile and after."""
    await site.paid(200)
    await asyncio.to_thread(lose)
    await site.paid(202)
    await asyncio.to_thread(pair.fail_over)
    await site.service.wait_mode("online")
    await site.paid(200)


@standby_first
async def test_the_primary_is_killed(pair: Pair, site: Site) -> None:
    async with site.load.running():
        await _fails_over(site, pair, pair.old.kill)
    await _finish(site, pair)


@in_any_order
async def test_the_primary_is_frozen_and_goes_on_later(pair: Pair, site: Site) -> None:
    """It then takes writes by itself, as one does that nobody stops: nothing of the service's is ever among them."""
    async with site.load.running():
        await _fails_over(site, pair, pair.old.freeze)
        # What is outstanding is looked for where it can be applied, too.
        assert "Nothing to apply" in await site.service.operate("migrate")
        await asyncio.to_thread(pair.let_old_go_on)
        await eventually(lambda: not pair.old.backends(), CLOSED_SECONDS, "nothing is connected to it")
        before = _transfers(pair.old)
        await site.paid(200, times=100)
    assert _transfers(pair.old) == before
    assert pair.old.backends() == []
    await _finish(site, pair)


@primary_first
async def test_a_start_passes_over_the_old_primary_that_answers_first(pair: Pair, site: Site) -> None:
    """Nobody stopped it, and it stands first in the URL: it holds an older moment, and its standby the right one."""
    async with site.load.running():
        await _fails_over(site, pair, pair.old.freeze)
        site.service.kill()
        await asyncio.to_thread(pair.let_old_go_on)
        before = _transfers(pair.old)
        site.service.start()
        await site.service.wait_ready()
        await site.service.wait_mode("online")
        await site.paid(200)
    assert _transfers(pair.old) == before
    assert "is the one that this node left" in site.service.whole_log()
    await _finish(site, pair)


@primary_first
async def test_a_primary_that_can_confirm_nothing_is_left_for_its_standby(pair: Pair, site: Site) -> None:
    """It answers, takes writes, and waits for ever for the standby to have them, which is the primary by now."""
    async with site.load.running():
        await site.paid(200)
        await asyncio.to_thread(pair.fail_over)
        await site.paid(202)
        await site.service.wait_mode("online")
        await site.paid(200)
    await _finish(site, pair)


async def test_the_service_starts_for_the_first_time_though_the_first_host_hangs(
    empty_postgres: PostgresServer, new_service: NewService
) -> None:
    async with Proxy(empty_postgres.port) as proxy:
        proxy.black_hole()
        ports = f"{proxy.port},{empty_postgres.port}"
        service = new_service(make_dsn(empty_postgres.dsn, host="127.0.0.1,127.0.0.1", port=ports))
        service.start()

        await service.wait_ready(START_SECONDS)
        await service.wait_mode("online")


def _transfers(postgres: PostgresServer) -> list[tuple[int, ...]]:
    """How many it holds, and the newest."""
    return postgres.execute("SELECT count(*), max(id) FROM transfers")
