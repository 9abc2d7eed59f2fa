"""The measure itself: without an attack everybody is served."""

import asyncio
from collections.abc import Callable

import pytest

from .floods import Flood
from .shopkeepers import Shopkeepers

SECONDS = 1.0


async def idle() -> None:
    """Attacks nobody."""
    await asyncio.Event().wait()


@pytest.mark.alone
async def test_without_attack(shopkeepers: Shopkeepers, start_flood: Callable[..., Flood]) -> None:
    running = start_flood(idle)
    before = shopkeepers.resident_mib()
    assert await shopkeepers.payments_a_second(SECONDS) > 20
    assert await shopkeepers.first_login_seconds() < 2
    assert shopkeepers.resident_mib() - before < 50
    assert running.is_running
