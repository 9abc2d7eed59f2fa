"""One real PostgreSQL for the whole run, a fresh database for each test, the service in front of it.

The server is the embedded one that aiopypay ships, in a directory of its own, fsync and all; it is stopped and
removed at the end, also after failures. A new database is a copy of one that was migrated once.
"""

import asyncio
import contextlib
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import aiohttp
import hypothesis
import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer
from psycopg2.extensions import make_dsn

from aiopypay import migrations, superuser
from aiopypay.app import create_app
from aiopypay.embedded import EmbeddedPostgres
from aiopypay.server import HEADER_BYTES_MAX
from aiopypay.settings import Settings
from tests import ledger
from tests.client import Service

# Failures are shown with what reproduces them; nothing is written beside the tests.
hypothesis.settings.register_profile("aiopypay", deadline=None, print_blob=True, database=None)
hypothesis.settings.load_profile("aiopypay")

in_the_modules_loop = pytest.mark.asyncio(loop_scope="module")

SUPERUSER_PASSWORD = "the superuser's password"
TEMPLATE = "aiopypay_template"

# fsync stays on: what is committed is on disk. What is saved is work that no test looks at.
CHEAPER = (
    "checkpoint_timeout = '1h'",
    "max_wal_size = '4GB'",
    "autovacuum = off",
    "jit = off",
    "max_connections = 200",
    "max_wal_senders = 0",
    "wal_level = minimal",
)


def pytest_configure() -> None:
    """Lets SIGTERM end the run as Ctrl-C does: fixtures finish, and no server stays behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the outage tests; pytest reads them here only."""
    parser.addoption("--outage-rounds", type=int, default=None, metavar="N", help="rounds of each outage test")
    parser.addoption("--outage-seed", type=int, default=None, metavar="N", help="what their draws begin with")


StartService = Callable[[Settings], Awaitable[Service]]


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The run's own PostgreSQL server, running."""
    directory = Path(tempfile.mkdtemp(prefix="aiopypay-"))
    server = EmbeddedPostgres(directory)
    try:
        server.start()
        for setting in CHEAPER:
            ledger.query(administration_dsn(server), f"ALTER SYSTEM SET {setting}")
        server.stop()
        server.start()
        yield server
    finally:
        with contextlib.suppress(Exception):
            server.stop("immediate")
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> str:
    """The name of a database as it is right after the service's first start."""
    administration = administration_dsn(postgres)
    ledger.query(administration, f"CREATE DATABASE {TEMPLATE} OWNER aiopypay")
    dsn = make_dsn(postgres.dsn, dbname=TEMPLATE)
    migrations.apply(dsn)
    run_apart(superuser.ensure_password(Settings(database_url=dsn, superuser_password=SUPERUSER_PASSWORD)))
    return TEMPLATE


@pytest.fixture
def database_url(postgres: EmbeddedPostgres, template: str) -> Iterator[str]:
    """A DSN of a fresh, migrated database that belongs to the service's role; it is gone after the test."""
    with fresh_database(postgres, template) as dsn:
        yield dsn


@pytest.fixture
def empty_database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A DSN of a fresh database with nothing in it, not even the schema."""
    with fresh_database(postgres, "template1") as dsn:
        yield dsn


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
def shared_database_url(postgres: EmbeddedPostgres, template: str) -> Iterator[str]:
    """A DSN of a database for a whole module, for tests that leave nothing behind."""
    with fresh_database(postgres, template) as dsn:
        yield dsn


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared_service(shared_database_url: str) -> AsyncIterator[Service]:
    """A service for a whole module; tests that use it are marked with `in_the_modules_loop`."""
    async with running_service(Settings(database_url=shared_database_url)) as service:
        yield service


@contextlib.asynccontextmanager
async def running_service(settings: Settings) -> AsyncIterator[Service]:
    """Starts an instance, with the server's own limits and a data directory of its own, and stops it at the end."""
    with tempfile.TemporaryDirectory(prefix="aiopypay-") as directory:
        async with _served(replace(settings, data_dir=Path(directory))) as service:
            yield service


@contextlib.asynccontextmanager
async def _served(settings: Settings) -> AsyncIterator[Service]:
    server = TestServer(create_app(settings), host="127.0.0.1")
    await server.start_server(max_field_size=HEADER_BYTES_MAX, max_line_size=HEADER_BYTES_MAX)
    try:
        connector = aiohttp.TCPConnector(limit=256)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Service(session, str(server.make_url("/")), str(settings.database_url))
    finally:
        await server.close()


@contextlib.contextmanager
def fresh_database(postgres: EmbeddedPostgres, template: str) -> Iterator[str]:
    """Makes a database after the template and drops it at the end, sessions that linger included."""
    name = f"test_{uuid4().hex}"
    ledger.query(administration_dsn(postgres), f"CREATE DATABASE {name} OWNER aiopypay TEMPLATE {template}")
    try:
        yield make_dsn(postgres.dsn, dbname=name)
    finally:
        if postgres.is_running():
            drop_database(postgres, name)


def drop_database(postgres: EmbeddedPostgres, name: str) -> None:
    """Drops a database, ending its sessions first: DROP DATABASE itself looks for their end only every 100 ms."""
    connection = ledger.connect(administration_dsn(postgres))
    try:
        with connection.cursor() as cursor:
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
                if not cursor.fetchall():
                    break
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        connection.close()


def administration_dsn(postgres: EmbeddedPostgres) -> str:
    """The DSN of the server's superuser, who may do what the service's role may not."""
    return make_dsn(postgres.dsn, user="postgres", dbname="postgres")


def with_credit(settings: Settings, **credit: str) -> Settings:
    """The settings with a sign-up credit, as in `with_credit(settings, USD="100")`."""
    return replace(settings, signup_credit={currency: Decimal(amount) for currency, amount in credit.items()})


def run_apart(work: Awaitable[None]) -> None:
    """Runs a coroutine to its end on an event loop of its own, in a thread of its own."""
    failures: list[BaseException] = []

    async def awaited() -> None:
        await work

    def run() -> None:
        try:
            asyncio.run(awaited())
        except BaseException as error:  # noqa: BLE001 - it is raised below, in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
