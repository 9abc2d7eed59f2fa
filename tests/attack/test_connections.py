"""Clients that take connections and keep them, beside shopkeepers who want to be paid."""

from collections.abc import Callable

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.outage.postgres import PostgresServer
from tests.outage.service import NewService, ServiceProcess
from tests.outage.waiting import eventually

from .floods import Flood
from .holding_on import hold_on
from .shopkeepers import Shopkeepers

SECONDS = 1.5
SOON = 20
CONNECTIONS = 300
ADDRESSES = 50
RATE_LEFT = 0.5
MEMORY_MIB = 150
TRIES = 3
CLIENTS = (
    "says_nothing",
    "never_ends_its_head",
    "trickles_its_head",
    "trickles_its_body",
    "never_reads",
    "pipelines",
)
FEW_FILES = 300
WITH_FEW_FILES = f"""
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({FEW_FILES}, {FEW_FILES}))
runpy.run_module("aiopypay", run_name="__main__", alter_sys=True)
"""


async def counted(service: ServiceProcess) -> dict[str, float]:
    """What /metrics says of connections: `open`, and by why they ended."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        async with session.get(f"{service.base_url}/metrics") as response:
            text = await response.text()
    figures: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "aiopypay_connections":
                figures["open"] = sample.value
            if sample.name == "aiopypay_connections_ended_total":
                figures[sample.labels["why"]] = sample.value
    return figures


@pytest.mark.alone
async def test_payments_go_on_beside_them(
    shopkeepers: Shopkeepers, start_flood: Callable[..., Flood], report: Callable[[str], None]
) -> None:
    service = shopkeepers.service
    alone = await shopkeepers.payments_a_second(SECONDS)
    memory = shopkeepers.resident_mib()
    for client in CLIENTS:
        before = await counted(service)
        flood = start_flood(hold_on, service.port, client, ADDRESSES, CONNECTIONS)
        await eventually(lambda before=before: _has_come(service, before), SOON, f"the flood that {client}")  # type: ignore[misc]
        beside = 0.0
        for _ in range(TRIES):
            # The machine is shared with others, and the flood itself takes of it.
            beside = max(beside, await shopkeepers.payments_a_second(SECONDS))
            if beside >= RATE_LEFT * alone:
                break
        login, most = await shopkeepers.first_login_seconds(), shopkeepers.resident_mib()
        assert flood.is_running
        flood.end()
        report(f"{client}: {alone:.0f}/s alone, {beside:.0f}/s; login {login:.2f} s; {memory:.0f}, {most:.0f} MiB")
        assert beside >= RATE_LEFT * alone, client
        assert login < 2, client
        assert most - memory < MEMORY_MIB, client
    await eventually(lambda: _are_gone(service), SOON, "all of them are gone")
    assert "Traceback" not in service.whole_log(), service.log()


async def test_with_few_files_those_who_pay_are_served(
    empty_postgres: PostgresServer, new_service: NewService, start_flood: Callable[..., Flood]
) -> None:
    service = new_service(empty_postgres.dsn)
    service.start(command=("-c", WITH_FEW_FILES))
    await service.wait_ready()
    assert f"open {FEW_FILES} files" in service.whole_log()
    async with Shopkeepers.open(service) as shopkeepers:
        flood = start_flood(hold_on, service.port, "says_nothing", ADDRESSES, 2 * FEW_FILES)
        await eventually(lambda: _have_made_room(service), SOON, "there is no room for all of them")
        assert await shopkeepers.payments_a_second(SECONDS) > 0
        assert await shopkeepers.first_login_seconds() < SOON
        flood.end()
        assert (await service.health())["mode"] == "online"
    assert "Traceback" not in service.whole_log(), service.log()


async def _has_come(service: ServiceProcess, before: dict[str, float]) -> bool:
    """Whether as many have connected as are to, be they here still or not."""
    return sum((await counted(service)).values()) - sum(before.values()) >= CONNECTIONS * 0.9


async def _have_made_room(service: ServiceProcess) -> bool:
    return (await counted(service))["displaced"] > 0


async def _are_gone(service: ServiceProcess) -> bool:
    # The shopkeepers', and the one that asks.
    return (await counted(service))["open"] < CONNECTIONS / 2
