"""Clients that take connections and keep them, beside shopkeepers who want to be paid."""

import asyncio
from collections.abc import Callable

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.outage.service import ServiceProcess

from .floods import Flood
from .holding_on import hold_on
from .shopkeepers import Shopkeepers

SECONDS = 2.0
CONNECTIONS = 400


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


@pytest.mark.parametrize("addresses", [1, 100])
@pytest.mark.parametrize(
    "client",
    ["says_nothing", "never_ends_its_head", "trickles_its_head", "trickles_its_body", "never_reads", "pipelines"],
)
async def test_beside_them(
    shopkeepers: Shopkeepers,
    start_flood: Callable[..., Flood],
    client: str,
    addresses: int,
    report: Callable[[str], None],
) -> None:
    before = shopkeepers.resident_mib()
    alone = await shopkeepers.payments_a_second(SECONDS)
    flood = start_flood(hold_on, shopkeepers.service.port, client, addresses, CONNECTIONS)
    await asyncio.sleep(3)
    beside = await shopkeepers.payments_a_second(SECONDS)
    login = await shopkeepers.first_login_seconds()
    most = shopkeepers.resident_mib()
    figures = await counted(shopkeepers.service)
    await asyncio.sleep(9)
    most = max(most, shopkeepers.resident_mib())
    later = await counted(shopkeepers.service)
    flood.end()
    await asyncio.sleep(2)
    report(
        f"{client} {addresses}: {alone:.0f}/s, {beside:.0f}/s; login {login:.2f} s; MiB {before:.0f}, {most:.0f}, {shopkeepers.resident_mib():.0f}; {figures} {later}"
    )
    assert "Traceback" not in shopkeepers.service.whole_log(), shopkeepers.service.log()
