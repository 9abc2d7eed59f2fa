"""Crowds before the door: whoever is not attacked logs in, registers and pays as if they were not there."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

import aiohttp
import pytest

from tests.outage.payments import credentials
from tests.outage.service import ServiceProcess
from tests.outage.waiting import eventually

from .floods import Flood
from .login_attacks import ADDRESSES, forwarded, own_changes, registrations, wrong_passwords
from .shopkeepers import Shopkeepers, login_seconds

logger = logging.getLogger(__name__)

StartFlood = Callable[..., Flood]

SECONDS = 3.0
# Half of it is to be kept where the crowd's program, the measure's, and the database have cores of their own.
KEPT, TRIES = 1 / 3, 3
LOGIN_SECONDS_MAX = 2.0
MEMORY_MIB_MAX = 150.0
# What is still held once all is over: argon2's memory, and what the C library keeps.
MEMORY_LEFT_MIB_MAX = 80.0
ANSWERS_BEFORE = 20


@pytest.fixture
def settings() -> dict[str, str]:
    """This machine is a proxy that is trusted; 127.0.0.2 and the like are not."""
    return {"APP_TRUSTED_PROXIES": "127.0.0.1"}


@pytest.mark.alone
async def test_beside_crowds_others_are_served(shopkeepers: Shopkeepers, start_flood: StartFlood) -> None:
    """One after the other, so that they share a service and what its payments are without them."""
    changer, base_url = shopkeepers.people[-1], shopkeepers.service.base_url
    alone, before = await shopkeepers.payments_a_second(SECONDS), shopkeepers.resident_mib()
    for attack, method, arguments in (
        (wrong_passwords, "GET", ()),
        (registrations, "POST", ()),
        (own_changes, "PATCH", (changer.username, changer.password)),
    ):
        answered = await _answers(shopkeepers.service, method)
        running = start_flood(attack, base_url, *arguments)
        await _more_answers(shopkeepers.service, method, answered + ANSWERS_BEFORE)
        beside, *logins = await asyncio.gather(
            shopkeepers.payments_a_second(SECONDS), *(shopkeepers.first_login_seconds() for _ in range(3))
        )
        for _ in range(TRIES - 1):
            if beside < alone / 2:
                beside = max(beside, await shopkeepers.payments_a_second(SECONDS))
        grown = shopkeepers.resident_mib() - before
        assert running.is_running
        running.end()
        told = f"{attack.__name__}: {alone:.0f} payments/s alone, {beside:.0f} beside, {logins} s, {grown:.0f} MiB more"
        logger.info(told)
        assert max(logins) < LOGIN_SECONDS_MAX, told
        assert beside >= alone * KEPT, told
        assert grown <= MEMORY_MIB_MAX, told
        await eventually(lambda: shopkeepers.resident_mib() - before < MEMORY_LEFT_MIB_MAX, 30, "the memory comes back")


async def test_one_user_is_not_guessed_from_everywhere_and_gets_in_from_where_they_were(
    shopkeepers: Shopkeepers, service: ServiceProcess
) -> None:
    victim = shopkeepers.people[0]
    url = f"{service.base_url}/api/users/me"
    await login_seconds(service.base_url, victim.username, victim.password)

    async def guess(session: aiohttp.ClientSession, number: int, password: str = "") -> int:
        headers = {**forwarded(number), **credentials(victim.username, password)}
        async with session.get(url, headers=headers) as response:
            return response.status

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=ADDRESSES)) as session:
        statuses = Counter(await asyncio.gather(*(guess(session, number) for number in range(2 * ADDRESSES))))
        assert set(statuses) == {401, 429}
        assert statuses[401] <= 20, "ten, and ten more where a minute has passed"
        # From anywhere else the right password is not told from a wrong one.
        assert await guess(session, 2 * ADDRESSES, victim.password) == 429
    # In capitals they are not the credentials that are remembered.
    assert await login_seconds(service.base_url, victim.username.upper(), victim.password) < LOGIN_SECONDS_MAX
    # What is known of addresses survives a restart.
    await service.terminate()
    service.start()
    await service.wait_ready()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=ADDRESSES)) as session:
        await asyncio.gather(*(guess(session, number) for number in range(ADDRESSES)))
        assert await guess(session, 2 * ADDRESSES, victim.password) == 429
    assert await login_seconds(service.base_url, victim.username, victim.password) < LOGIN_SECONDS_MAX


async def _more_answers(service: ServiceProcess, method: str, than: int) -> None:
    async def there_are() -> bool:
        return await _answers(service, method) > than

    await eventually(there_are, 20, "the crowd is there")


async def _answers(service: ServiceProcess, method: str) -> int:
    """How many requests of this method were answered, whatever the answer."""
    async with aiohttp.ClientSession() as session, session.get(f"{service.base_url}/metrics") as response:
        lines = (await response.text()).splitlines()
    counted = (line for line in lines if line.startswith("aiopypay_requests_total{") and f'method="{method}"' in line)
    return sum(int(float(line.rpartition(" ")[2])) for line in counted if '"/users/{user_id}' not in line)
