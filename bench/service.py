"""The programs that are measured: the service as `./run.sh prod` starts it, and bare aiohttp beside it."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from bench.errors import BenchError

REPOSITORY = Path(__file__).parents[1]
START_SECONDS = 30
STOP_SECONDS = 30
POLL_SECONDS = 0.01
LOG_LINES_SHOWN = 5


@contextlib.contextmanager
def running(arguments: Sequence[str], settings: dict[str, str], log_file: Path) -> Iterator[int]:
    """Runs a Python program of this checkout for as long as the body takes; yields its process id.

    Of the environment it gets nothing but the settings: what the operator has set for the real service, in a .env file
    too, must not reach the one that is measured.
    """
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), **settings}
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=log_file.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Client:
    """Asks a program on a port of this machine for JSON, over one connection that is kept."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)

    def ask(
        self, method: str, path: str, *, form: dict[str, object] | None = None, authorization: str | None = None
    ) -> Any:
        """Returns the JSON of a 2xx. Raises `BenchError` for another answer, OSError where there is none."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
        if authorization is not None:
            headers["Authorization"] = authorization
        try:
            self._connection.request(method, path, urlencode(form) if form else None, headers)
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        if response.status >= 300:
            raise BenchError(f"{method} {path} was answered with {response.status}: {body[:300]!r}")
        return json.loads(body)

    def wait_until_served(self, path: str, log_file: Path) -> None:
        """Returns once the path is answered. Raises `BenchError` with the log's end where it is not."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.ask("GET", path)
                return
            time.sleep(POLL_SECONDS)
        last_words = " / ".join(log_file.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])
        raise BenchError(f"nothing answered {path} within {START_SECONDS} s: {last_words}")

    def wait_for_health(self, what: str, patience_seconds: float, *values: object) -> float:
        """Returns the moment at which `/health` first told one of these values of `what`, by time.perf_counter."""
        deadline = time.monotonic() + patience_seconds
        while time.monotonic() < deadline:
            if self.ask("GET", "/health")[what] in values:
                return time.perf_counter()
            time.sleep(POLL_SECONDS)
        raise BenchError(f"/health told no {what} of {values} within {patience_seconds} s")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        port: int = candidate.getsockname()[1]
        return port
