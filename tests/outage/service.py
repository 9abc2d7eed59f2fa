"""The real service, `python -m aiopypay serve`, as a process that can be killed and started again."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
from psycopg2.extensions import make_dsn, parse_dsn

from aiopypay.embedded.roles import OWNER, SERVICE

from .load import SUPERUSER_PASSWORD
from .waiting import eventually

REPOSITORY = Path(__file__).parents[2]
READY_SECONDS = 20
STOP_SECONDS = 15
COMMAND_SECONDS = 30
LOG_LINES_SHOWN = 60
SETTINGS = {
    "APP_SIGNUP_CREDIT": "USD:300,CNY:300,EUR:300",
    "APP_PASSWORD_MIN_LENGTH": "4",
    "APP_SUPERUSER_PASSWORD": SUPERUSER_PASSWORD,
}
COMMAND = ("-m", "aiopypay")
# aiohttp reads all certificates of the machine at its import, and nothing here speaks TLS: a start is 50 ms shorter.
NO_CERTIFICATES = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}


class ServiceProcess:
    """One node: its data directory and its port are kept from start to start."""

    def __init__(self, database_url: str, *, settings: Mapping[str, str] | None = None) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="aiopypay-", dir="/tmp"))
        self.data_dir = self._directory / "var"
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self._log_file = self._directory / "service.log"
        self._settings = {
            **SETTINGS,
            **_urls(database_url),
            "APP_DATA_DIR": str(self.data_dir),
            "APP_PORT": str(self.port),
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, command: Sequence[str] = COMMAND, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        """Starts the process; `wait_ready` waits until it serves.

        `command` stands in place of `-m aiopypay`, for launchers that prepare a fault; `environment` counts for this
        start alone.
        """
        assert not self.is_running()
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *command, "serve"],
                cwd=self._directory,
                env={**self._environment(), **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs another command of the same node to its end, as its operator would."""
        return subprocess.run(
            [sys.executable, *COMMAND, *arguments],
            cwd=self._directory,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    async def operate(self, *arguments: str) -> str:
        """Runs another command, which must succeed, while this test goes on; returns what it printed."""
        ended = await asyncio.to_thread(self.run, *arguments)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def configure(self, **settings: str | None) -> None:
        """Changes settings from the next start on; None unsets one."""
        if (database_url := settings.get("DATABASE_URL")) is not None:
            settings = {**settings, **_urls(database_url)}
        for name, value in settings.items():
            self._settings.pop(name, None)
            if value is not None:
                self._settings[name] = value

    def _environment(self) -> dict[str, str]:
        python = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "PYTHONDEVMODE": ""}
        return {**python, **NO_CERTIFICATES, **self._settings}

    async def health(self) -> dict[str, Any]:
        """What GET /health says."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            async with session.get(f"{self.base_url}/health") as response:
                assert response.status == 200, await response.text()
                body: dict[str, Any] = await response.json()
                return body

    async def wait_mode(self, mode: str, within_seconds: float = 20) -> float:
        """Waits until /health says this mode; returns how long that took."""
        return await self.wait_health(lambda health: health["mode"] == mode, f"the mode is {mode}", within_seconds)

    async def wait_health(
        self, holds: Callable[[dict[str, Any]], bool], what: str, within_seconds: float = 20
    ) -> float:
        """Waits until what /health says holds; returns how long that took."""
        health: dict[str, Any] = {}

        async def it_holds() -> bool:
            nonlocal health
            try:
                health = await self.health()
            except (aiohttp.ClientError, OSError, TimeoutError):
                return False
            return holds(health)

        try:
            return await eventually(it_holds, within_seconds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; /health says {health}") from None

    async def wait_filled(self) -> None:
        """Waits until the node remembers every user and account, so that it may stand in for all of them."""

        def knows_all(health: dict[str, Any]) -> bool:
            remembered = health["remembered"]
            return bool(remembered["complete"]) and not remembered.get("uncertain", 0)

        await self.wait_health(knows_all, "everything is remembered")

    async def wait_ready(self, within_seconds: float = READY_SECONDS) -> float:
        """Waits until it answers /health; returns how long that took. Fails at once where the process has ended."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:

            async def answers() -> bool:
                assert self.is_running(), f"the service ended with {self.exit_status}:\n{self.log()}"
                try:
                    async with session.get(f"{self.base_url}/health") as response:
                        return response.status == 200
                except (aiohttp.ClientError, OSError, TimeoutError):
                    return False

            return await eventually(answers, within_seconds, "the service serves")

    def is_running(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """How the last process ended, None while it runs."""
        return self._process.poll() if self._process else None

    def kill(self) -> None:
        """kill -9; returns when it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_SECONDS)

    def send_kill(self) -> None:
        """kill -9, without waiting: where its disk hangs the kernel keeps it."""
        assert self._process is not None
        self._process.kill()

    def send_stop(self) -> None:
        """SIGTERM, without waiting."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    async def wait_exit(self, within_seconds: float = STOP_SECONDS) -> int:
        """Waits for the process to end by itself; returns its exit status."""
        await eventually(lambda: not self.is_running(), within_seconds, "the service ends")
        assert self.exit_status is not None
        return self.exit_status

    def whole_log(self) -> str:
        """All that it wrote, over all of its starts."""
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    async def terminate(self) -> None:
        """SIGTERM, and a clean exit."""
        self.send_stop()
        assert await self.wait_exit() == 0, self.log()

    def log(self) -> str:
        """The last lines that it wrote, over all of its starts, and those around the first traceback."""
        lines = self.whole_log().splitlines()
        first = next((number for number, line in enumerate(lines) if line.startswith("Traceback")), len(lines))
        shown = [*lines[max(0, first - 1) : first + LOG_LINES_SHOWN], "…", *lines[-LOG_LINES_SHOWN:]]
        return "\n".join(shown if first < len(lines) - LOG_LINES_SHOWN else lines[-2 * LOG_LINES_SHOWN :])

    def remove(self) -> None:
        """Ends it and removes its directory, where that was not done before."""
        if self.is_running():
            self.kill()
        if self._directory.exists():
            shutil.rmtree(self._directory)


NewService = Callable[..., ServiceProcess]


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        return int(candidate.getsockname()[1])


def _urls(database_url: str) -> dict[str, str]:
    """The service works as its own role and migrates as another, whose password in these clusters is the same."""
    urls = {"DATABASE_URL": database_url}
    if parse_dsn(database_url)["user"] == SERVICE:
        urls["APP_MIGRATION_URL"] = make_dsn(database_url, user=OWNER)
    return urls
