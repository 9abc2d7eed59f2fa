"""What the tests over HTTP share: how much hashing costs them, and who pays whom."""

from collections.abc import Iterator

import pytest

from aiopypay import passwords
from tests import ledger
from tests.client import Caller, Service
from tests.conftest import CHEAP_MEMORY_KIB, SUPERUSER_PASSWORD, argon2_memory


@pytest.fixture(scope="module", autouse=True)
def _hashing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Cheap, but for modules that are marked `real_hashing`. The superuser's hash is cheap in both."""
    real = request.node.get_closest_marker("real_hashing") is not None
    with argon2_memory(passwords.MEMORY_KIB if real else CHEAP_MEMORY_KIB):
        yield


@pytest.fixture
async def alice(service: Service) -> Caller:
    """A user with 100 dollars."""
    caller = await service.register("alice")
    ledger.deposit(service.database_url, caller.accounts["USD"], "100")
    return caller


@pytest.fixture
async def bob(service: Service) -> Caller:
    """A user without money."""
    return await service.register("bob")


@pytest.fixture
async def admin(service: Service) -> Caller:
    """The superuser."""
    return await service.superuser(SUPERUSER_PASSWORD)
