"""Servers of these tests' own, and a deadline over each test: nothing here may hang."""

import contextlib
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType

import pytest

from aiopypay import migrations
from aiopypay.embedded.roles import SERVICE

from .node import new_directory
from .postgres import PostgresServer
from .service import NewService, ServiceProcess
from .shop import Shop, open_shop

TEST_SECONDS = 60
ROUND_SECONDS = 30
ROUNDS = 1


class TestHangs(BaseException):
    """A test took longer than any of these may."""

    __test__ = False


@pytest.fixture(autouse=True)
def _deadline(rounds: int) -> Iterator[None]:
    seconds = TEST_SECONDS + ROUND_SECONDS * rounds

    def expire(_number: int, _frame: FrameType | None) -> None:
        raise TestHangs(f"the test did not end within {seconds} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """How many rounds a test that goes by rounds runs: one, unless --outage-rounds says how many."""
    given = request.config.getoption("--outage-rounds")
    return ROUNDS if given is None else int(given)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Drawn anew each time, unless --outage-seed gives one. A failed test shows it."""
    given = request.config.getoption("--outage-seed")
    drawn = secrets.randbelow(10**9) if given is None else int(given)
    print(f"--outage-seed {drawn}")  # noqa: T201 - pytest shows it where the test fails
    return drawn


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a line for the record, also where the test passes."""

    def write(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}", end="", file=sys.stderr, flush=True)  # noqa: T201 - it is what was asked for

    return write


@pytest.fixture(scope="session")
def cluster() -> Iterator[PostgresServer]:
    """These tests' own cluster: they take it away from those who use it."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres(cluster: PostgresServer) -> Iterator[PostgresServer]:
    """The cluster, up and thawed whatever the test before did to it."""
    cluster.thaw()
    cluster.start()
    yield cluster
    cluster.thaw()


@pytest.fixture
def empty_postgres(postgres: PostgresServer) -> PostgresServer:
    """The cluster with an empty database for this test."""
    postgres.new_database()
    return postgres


@pytest.fixture
def migrated_postgres(empty_postgres: PostgresServer) -> PostgresServer:
    """The cluster with a database for this test that has the service's schema."""
    migrations.apply(empty_postgres.owner_dsn, SERVICE)
    return empty_postgres


@pytest.fixture
def directory() -> Iterator[Path]:
    """One node's data directory, over its restarts."""
    with new_directory() as path:
        yield path


@pytest.fixture
def new_service() -> Iterator[NewService]:
    """Makes services that are ended after the test. Their logs are shown where it fails."""
    with contextlib.ExitStack() as stack:

        def make(database_url: str, settings: Mapping[str, str] | None = None) -> ServiceProcess:
            service = ServiceProcess(database_url, settings=settings)
            stack.callback(service.remove)
            stack.callback(lambda: print(service.log()))  # noqa: T201 - pytest shows it where the test fails
            return service

        yield make


@pytest.fixture
def settings() -> dict[str, str]:
    """Of the node; a class that needs others overrides this."""
    return {}


@pytest.fixture
async def shop(
    empty_postgres: PostgresServer, new_service: NewService, settings: dict[str, str]
) -> AsyncIterator[Shop]:
    """The database is up. Anna has 300.00."""
    async with open_shop(empty_postgres, new_service, settings) as opened:
        yield opened
