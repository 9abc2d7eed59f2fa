"""The real service, `python -m aiopypay serve`, as a process that can be killed and started again."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from .waiting import eventually

REPOSITORY = Path(__file__).parents[2]
READY_SECONDS = 20
STOP_SECONDS = 15
LOG_LINES_SHOWN = 60
SETTINGS = {"APP_SIGNUP_CREDIT": "USD:300,CNY:300,EUR:300", "APP_PASSWORD_MIN_LENGTH": "4"}


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
            "DATABASE_URL": database_url,
            "APP_DATA_DIR": str(self.data_dir),
            "APP_PORT": str(self.port),
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process; `wait_ready` waits until it serves."""
        assert not self.is_running()
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONDEVMODE": "",
            **self._settings,
        }
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "aiopypay", "serve"],
                cwd=self._directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

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
    def exit_status(self) -> int | None:
        """How the last process ended, None while it runs."""
        return self._process.poll() if self._process else None

    def kill(self) -> None:
        """kill -9; returns when it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_SECONDS)

    def send_stop(self) -> None:
        """SIGTERM, without waiting."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    async def wait_exit(self, within_seconds: float = STOP_SECONDS) -> int:
        """Waits for the process to end by itself; returns its exit status."""
        await eventually(lambda: not self.is_running(), within_seconds, "the service ends")
        assert self.exit_status is not None
        return self.exit_status

    async def terminate(self) -> None:
        """SIGTERM, and a clean exit."""
        self.send_stop()
        assert await self.wait_exit() == 0, self.log()

    def log(self) -> str:
        """The last lines that it wrote, over all of its starts, and those around the first traceback."""
        lines = self._log_file.read_text(errors="replace").splitlines() if self._log_file.exists() else []
        first = next((number for number, line in enumerate(lines) if line.startswith("Traceback")), len(lines))
        shown = [*lines[max(0, first - 1) : first + LOG_LINES_SHOWN], "…", *lines[-LOG_LINES_SHOWN:]]
        return "\n".join(shown if first < len(lines) - LOG_LINES_SHOWN else lines[-2 * LOG_LINES_SHOWN :])

    def remove(self) -> None:
        """Ends it and removes its directory."""
        if self.is_running():
            self.kill()
        shutil.rmtree(self._directory)


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        return int(candidate.getsockname()[1])
