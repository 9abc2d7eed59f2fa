"""What the tests over HTTP share: how much hashing costs them, and who pays whom."""

from collections.abc import Iterator

import pytest

from aiopypay import passwords
from tests.conftest import CHEAP_MEMORY_KIB, argon2_memory


@pytest.fixture(scope="module", autouse=True)
def _hashing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Cheap, but for modules that are marked `real_hashing`. The superuser's hash is cheap in both."""
    real = request.node.get_closest_marker("real_hashing") is not None
    with argon2_memory(passwords.MEMORY_KIB if real else CHEAP_MEMORY_KIB):
        yield
