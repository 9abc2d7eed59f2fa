"""One real PostgreSQL for the whole run, a fresh database for each test, the service in front of it.

The server is the embedded one that aiopypay ships, in a directory of its own, fsync and all; it is stopped and
removed at the end, also after failures. A new database is a copy of one that was migrated once.
"""

import asyncio
import contextlib
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import hypothesis
import pytest
from psycopg2.extensions import make_dsn

from aiopypay import migrations, passwords, superuser
from aiopypay.app import create_app
from aiopypay.embedded import EmbeddedPostgres
from aiopypay.embedded.roles import OWNER, SERVICE
from aiopypay.http_server import Runner
from aiopypay.settings import Settings
from tests import ledger
from tests.client import Caller, Service
from tests.cluster import administration_dsn, start_cheaper
from tests.databases import Databases
from tests.turns import Turns

# Failures are shown with what reproduces them; nothing is written beside the tests.
hypothesis.settings.register_profile("aiopypay", deadline=None, print_blob=True, database=None)
hypothesis.settings.load_profile("aiopypay")

SUPERUSER_PASSWORD = "the superuser's password"
TEMPLATE = "aiopypay_template"

LONGEST = (
    "test_stand_in_rounds",
    "test_crash_points",
    "test_schemathesis",
    "test_embedded",
    "test_commands",
    "test_many_accounts",
    "test_clock",
    "test_swagger_ui",
    "test_hung_disk",
    "test_bulk",
)

# Argon2's memory where no test looks at hashing: a user is registered 50 ms sooner.
CHEAP_MEMORY_KIB = 64


def pytest_configure(config: pytest.Config) -> None:
    """Lets SIGTERM end the run as Ctrl-C does: fixtures finish, and no server stays behind."""
    config.addinivalue_line("markers", "alone: no other test runs beside it, for what it measures needs the machine")
    config.addinivalue_line("markers", "real_hashing: a module that looks at hashing, or at how long it takes")
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the modules that take longest first: where several processes share them, none has one left in the end."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the outage tests; pytest reads them here only."""
    parser.addoption("--outage-rounds", type=int, default=None, metavar="N", help="rounds of each outage test")
    parser.addoption("--outage-seed", type=int, default=None, metavar="N", help="what their draws begin with")
    parser.addoption("--payments", type=int, default=60_000, metavar="N", help="in the table whose plans are looked at")
    parser.addoption("--hoard", type=int, default=60_000, metavar="N", help="accounts of one user who has very many")
    parser.addoption("--schemathesis-seed", type=int, default=None, metavar="N", help="repeats a run of schemathesis")
    parser.addoption("--schemathesis-examples", type=int, default=None, metavar="N", help="requests of each kind")


@pytest.fixture(scope="session")
def turns(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Turns:
    """Of all processes of this run."""
    own = tmp_path_factory.getbasetemp()
    return Turns(own if worker_id == "master" else own.parent)


@pytest.fixture(autouse=True)
def _turn(request: pytest.FixtureRequest, turns: Turns) -> Iterator[None]:
    """Before all else of a test, so that no deadline of its own runs while it waits for its turn."""
    with turns.alone() if request.node.get_closest_marker("alone") else turns.shared():
        yield


Result = TypeVar("Result")
StartService = Callable[[Settings], Awaitable[Service]]


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The run's own PostgreSQL server, running."""
    directory = Path(tempfile.mkdtemp(prefix="aiopypay-"))
    server = EmbeddedPostgres(directory)
    try:
        start_cheaper(server)
        yield server
    finally:
        with contextlib.suppress(Exception):
            server.stop("immediate")
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> str:
    """The name of a database as it is right after the service's first start."""
    administration = administration_dsn(postgres)
    ledger.query(administration, f"CREATE DATABASE {TEMPLATE} OWNER {OWNER}")
    dsn = make_dsn(postgres.dsn, dbname=TEMPLATE)
    migrations.apply(ledger.as_owner(dsn), SERVICE)
    with argon2_memory(CHEAP_MEMORY_KIB):
        run_apart(superuser.ensure_password(Settings(database_url=dsn, superuser_password=SUPERUSER_PASSWORD)))
    return TEMPLATE


@pytest.fixture(scope="session")
def databases(postgres: EmbeddedPostgres, template: str) -> Iterator[Databases]:
    """Where fresh databases come from."""
    with contextlib.closing(Databases(postgres, template)) as made:
        yield made


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """A DSN of a fresh, migrated database for the service's role, which owns nothing in it; it goes after the test."""
    with databases.fresh() as dsn:
        yield dsn


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    """A DSN of a fresh database with nothing in it, not even the schema, for the role that migrates."""
    with databases.empty() as dsn:
        yield ledger.as_owner(dsn)


@pytest.fixture
def settings(database_url: str) -> Settings:
    """The service's settings. A module that needs others overrides this fixture."""
    return Settings(database_url=database_url, superuser_password=SUPERUSER_PASSWORD, password_min_length=8)


@pytest.fixture
async def start_service(database_url: str) -> AsyncIterator[StartService]:
    """Starts instances of the service in this process; all are stopped after the test, before their database goes."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(settings: Settings) -> Service:
            return await stack.enter_async_context(running_service(settings))

        yield start


@pytest.fixture
async def service(start_service: StartService, settings: Settings) -> Service:
    """The service, running in this process on a port of its own."""
    return await start_service(settings)


@pytest.fixture(scope="module")
def shared_database_url(databases: Databases) -> Iterator[str]:
    """A DSN of a database for a whole module, for tests that leave nothing behind."""
    with databases.fresh() as dsn:
        yield dsn


@pytest.fixture(scope="module")
def shared_base_url(shared_database_url: str) -> Iterator[str]:
    """The address of a service for a whole module. It believes the proxies of this machine.

    Its event loop runs in a thread of its own, between tests too.
    """
    settings = Settings(database_url=shared_database_url, trusted_proxies=(ip_network("127.0.0.1"),))
    address: Future[str] = Future()
    stopping: Future[Callable[[], object]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        stopping.set_result(lambda: loop.call_soon_threadsafe(stop.set))
        try:
            async with running_service(settings) as service:
                address.set_result(service.base_url)
                await stop.wait()
        except Exception as error:
            if not address.done():
                address.set_exception(error)
            raise

    with ThreadPoolExecutor(1, thread_name_prefix="shared-service") as threads:
        serving = threads.submit(asyncio.run, serve())
        stop_serving = stopping.result()
        try:
            yield address.result(timeout=30)
        finally:
            stop_serving()
            serving.result(timeout=30)


@pytest.fixture
async def shared_service(shared_base_url: str, shared_database_url: str) -> AsyncIterator[Service]:
    """A service that a module's tests share: for tests that leave nothing behind."""
    async with aiohttp.ClientSession() as session:
        yield Service(session, shared_base_url, shared_database_url)


@contextlib.asynccontextmanager
async def running_service(settings: Settings) -> AsyncIterator[Service]:
    """Starts an instance, with the server's own limits and a data directory of its own, and stops it at the end."""
    with tempfile.TemporaryDirectory(prefix="aiopypay-") as directory:
        async with _served(replace(settings, data_dir=Path(directory))) as service:
            yield service


@contextlib.asynccontextmanager
async def _served(settings: Settings) -> AsyncIterator[Service]:
    runner = Runner(create_app(settings), trusted_proxies=settings.trusted_proxies)
    await runner.setup()
    try:
        await runner.listen("127.0.0.1", 0)
        host, port = runner.addresses[0][:2]
        connector = aiohttp.TCPConnector(limit=256)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Service(session, f"http://{host}:{port}/", str(settings.database_url))
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def argon2_memory(kibibytes: int) -> Iterator[None]:
    """Within, services that start in this process hash passwords in so much memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "MEMORY_KIB", kibibytes)
        yield


def with_credit(settings: Settings, **credit: str) -> Settings:
    """The settings with a sign-up credit, as in `with_credit(settings, USD="100")`."""
    return replace(settings, signup_credit={currency: Decimal(amount) for currency, amount in credit.items()})


def register_apart(base_url: str, database_url: str, username: str) -> Caller:
    """Registers a user for a whole module; `Caller.at` gives them the service of a test."""

    async def register() -> Caller:
        async with aiohttp.ClientSession() as session:
            return await Service(session, base_url, database_url).register(username)

    return run_apart(register())


def run_apart(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs a coroutine to its end on an event loop of its own, in a thread of its own."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, work).result()
