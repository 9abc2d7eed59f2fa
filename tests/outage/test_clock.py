"""The clock of the service is moved by a day during an outage, in both directions: order and limits know no clock."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from .clock import LIBRARIES, MISSING, Clock, clock_of
from .load import Payment
from .postgres import PostgresServer
from .service import NewService
from .site import Site, make_site
from .waiting import eventually

pytestmark = pytest.mark.skipif(not LIBRARIES, reason=MISSING)

Report = Callable[[str], None]


async def _a_site(postgres: PostgresServer, new_service: NewService, seed: int, clock: Clock, hours: str) -> Site:
    service = new_service(postgres.dsn, {"APP_OFFLINE_MAX_HOURS": hours})
    service.start(environment=clock.environment)
    return await make_site(postgres, service, seed)


async def test_a_day_more_or_less_changes_nothing(
    empty_postgres: PostgresServer,
    new_service: NewService,
    tmp_path: Path,
    seed: int,
    report: Report,
) -> None:
    clock, shifts = Clock(tmp_path), ("+1d", "-1d")
    site = await _a_site(empty_postgres, new_service, seed, clock, hours="1")
    async with site.load.running():
        await site.paid(200)
        await site.take_database()
        await site.paid(202)
        for shift in shifts:
            clock.shift(shift)
            await _has_moved(site, shift)
            # The cap of an hour is far away: a day has passed on the clock alone.
            await site.paid(202)
        site.service.kill()
        clock.shift(shifts[0])
        site.service.start(environment=clock.environment)
        await site.service.wait_ready()
        await site.paid(202)
        await site.bring_database()
        await site.service.wait_mode("online")
        clock.shift(shifts[1])
        await _has_moved(site, shifts[1])
        await site.paid(200)
    await site.finish()
    report(f"clock {' then '.join(shifts)}, seed {seed}: {site.load.counts()}")
    # It was really moved.
    days = site.postgres.execute("SELECT count(DISTINCT accepted_at::date) FROM orders WHERE posted_at IS NOT NULL")
    assert days[0][0] >= 2


async def _has_moved(site: Site, shift: str) -> None:
    wanted = timedelta(days=int(shift.removesuffix("d")))

    async def moved() -> bool:
        return abs(await clock_of(site.service.base_url) - wanted) < timedelta(hours=1)

    await eventually(moved, 10, f"the clock has moved by {shift}")


async def test_the_cap_by_hours_counts_time_that_passes_over_restarts(
    empty_postgres: PostgresServer, new_service: NewService, tmp_path: Path, seed: int, report: Report
) -> None:
    clock = Clock(tmp_path, monotonic=True)
    site = await _a_site(empty_postgres, new_service, seed, clock, hours="24")
    async with site.load.running():
        await site.take_database()
        await site.paid(202)
        clock.shift("+23h")
        await site.paid(202)
        clock.shift("+25h")
        await _capped(site)
        site.service.kill()
        site.service.start(environment=clock.environment)
        await site.service.wait_ready()
        await _capped(site)
        await site.bring_database()
        await site.service.wait_mode("online")
        await site.paid(200)
        # The next outage has its own day.
        await site.take_database()
        await site.paid(202)
        await site.bring_database()
        await site.paid(200)
    await site.finish()
    report(f"24 hours, seed {seed}: {site.load.counts()}")


async def _capped(site: Site) -> None:
    await site.paid(503)

    def is_capped(payment: Payment) -> bool:
        body = payment.answers[-1].body if payment.answers else None
        return isinstance(body, dict) and body.get("type") == "/problems/offline-hours-cap"

    await eventually(lambda: any(map(is_capped, site.load.payments[-20:])), 10, "payments meet the cap by hours")
    assert (await site.service.health())["mode"] == "stand-in"
