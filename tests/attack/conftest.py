"""A service to be attacked, in a process of its own, with a PostgreSQL of these tests' own."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from tests.outage.conftest import (  # noqa: F401 - fixtures, which pytest finds by these names
    _deadline,
    cluster,
    empty_postgres,
    new_service,
    postgres,
    report,
    rounds,
)
from tests.outage.postgres import PostgresServer
from tests.outage.service import NewService, ServiceProcess

from .floods import Flood, flood
from .shopkeepers import Shopkeepers


@pytest.fixture
def settings() -> dict[str, str]:
    """Of the service; a module that needs others overrides this. Empty: as it is shipped."""
    return {}


@pytest.fixture
async def service(
    empty_postgres: PostgresServer,  # noqa: F811 - the fixture
    new_service: NewService,  # noqa: F811
    settings: dict[str, str],
) -> ServiceProcess:
    """Serves. What every user has at the start: 300.00 in USD, CNY, EUR."""
    started = new_service(empty_postgres.dsn, settings)
    started.start()
    await started.wait_ready()
    return started


@pytest.fixture
async def shopkeepers(service: ServiceProcess) -> AsyncIterator[Shopkeepers]:
    """Known users, whose payments must go on."""
    async with Shopkeepers.open(service) as opened:
        yield opened


@pytest.fixture
def start_flood() -> Iterator[Callable[..., Flood]]:
    """Starts floods, each in a process of its own; those that still run end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda attack, *arguments: stack.enter_context(flood(attack, *arguments))
