"""The OpenAPI document as a file, the packages from npm, and a service whose database can be taken away."""

import fcntl
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from psycopg2.extensions import parse_dsn

from aiopypay import passwords
from aiopypay.app import create_app
from aiopypay.openapi.document import document, encoded
from aiopypay.settings import Settings
from tests.client import Service
from tests.conftest import CHEAP_MEMORY_KIB, StartService, argon2_memory
from tests.outage.proxy import Proxy
from tests.outage.waiting import eventually

FOLDER = Path(__file__).parent
INSTALL_SECONDS = 300
MODE_SECONDS = 20


@pytest.fixture(scope="session")
def openapi_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document in a file. No database is asked for it, so none need be there."""
    file = tmp_path_factory.mktemp("openapi") / "openapi.json"
    router = create_app(Settings(database_url="postgresql://nobody@127.0.0.1:9/nothing")).router
    file.write_bytes(encoded(document(router)))
    return file


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The packages of package-lock.json, installed where they are not. Without npm there are none, and it is said."""
    modules, lock = FOLDER / "node_modules", FOLDER / "package-lock.json"
    stamp = modules / ".installed.json"
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm: apt-get install nodejs npm")
    with lock.open("rb") as file:
        # Of several processes that run tests one installs, and the others wait.
        fcntl.flock(file, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
            subprocess.run([npm, "ci", "--silent"], cwd=FOLDER, check=True, timeout=INSTALL_SECONDS)
            shutil.copy(lock, stamp)
    return modules


@pytest.fixture(scope="module", autouse=True)
def _hashing() -> Iterator[None]:
    with argon2_memory(min(CHEAP_MEMORY_KIB, passwords.MEMORY_KIB)):
        yield


class Outage:
    """A service, and the way to its database."""

    def __init__(self, service: Service, proxy: Proxy) -> None:
        self.service = service
        self._proxy = proxy

    async def begin(self) -> None:
        """Takes the database away, and waits until the service stands in for it."""
        await self._is("remembered", "complete", True)
        self._proxy.refuse()
        self._proxy.reset()
        await self._is("mode", None, "stand-in")

    async def end(self) -> None:
        """Brings it back, and waits until all is booked."""
        await self._proxy.accept()
        await self._is("mode", None, "online")

    async def _is(self, member: str, part: str | None, value: object) -> None:
        async def seen() -> bool:
            health = (await self.service.get("/health")).json()[member]
            return bool((health if part is None else health[part]) == value)

        await eventually(seen, MODE_SECONDS, f"{member} is {value}")


@pytest.fixture
async def outage(database_url: str, settings: Settings, start_service: StartService) -> AsyncIterator[Outage]:
    """A service with its database, until that is taken away."""
    async with Proxy(int(parse_dsn(database_url)["port"])) as proxy:
        service = await start_service(replace(settings, database_url=proxy.dsn(database_url)))
        yield Outage(service, proxy)
