"""Runs the programs that are measured, and asks them over HTTP."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from bench.errors import BenchError

REPOSITORY = Path(__file__).parents[1]
PATIENCE_SECONDS = 30
STOP_SECONDS = 30
POLL_SECONDS = 0.01
LOG_LINES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Program:
    """A running program that answers over HTTP on a port of this machine."""

    port: int
    pid: int


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


@contextlib.contextmanager
def running_service(data_dir: Path, sign_up_credit: str) -> Iterator[Program]:
    """The service on its embedded PostgreSQL, as `./run.sh prod` starts it; yields once it is online."""
    port, log_file = free_port(), data_dir.parent / "service.log"
    settings = {"APP_DATA_DIR": str(data_dir), "APP_PORT": str(port), "APP_SIGNUP_CREDIT": sign_up_credit}
    # What ./run.sh prod ends in.
    with running(["-m", "aiopypay", "serve"], settings, log_file) as pid:
        client = Client(port)
        client.wait_until_served("/health", log_file)
        client.wait_for_mode("online")
        try:
            yield Program(port, pid)
        except BenchError as error:
            raise BenchError(f"{error} {_last_words(log_file)}") from error


@contextlib.contextmanager
def running_bare(directory: Path, answers: dict[str, Any]) -> Iterator[Program]:
    """Bare aiohttp, which answers always the same."""
    port, log_file, answers_file = free_port(), directory / "bare.log", directory / "answers.json"
    answers_file.write_text(json.dumps(answers))
    with running(["-m", "bench.bare", str(port), str(answers_file)], {}, log_file) as pid:
        Client(port).wait_until_served("/accounts/1", log_file)
        yield Program(port, pid)


class Client:
    """Asks a program on a port of this machine for JSON, over one connection that is kept."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)

    def ask(
        self, method: str, path: str, *, form: dict[str, object] | None = None, authorization: str | None = None
    ) -> Any:
        """Returns the JSON of a 2xx. Raises `BenchError` for another answer, OSError where there is none."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
        if authorization is not None:
            headers["Authorization"] = authorization
        status, body = self._request(method, path, urlencode(form) if form else None, headers)
        if status >= 300:
            raise BenchError(f"{method} {path} was answered with {status}: {body[:300]!r}")
        return json.loads(body)

    def wait_until_served(self, path: str, log_file: Path) -> None:
        """Returns once the path is answered. Raises `BenchError` with the log's end where it is not."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.ask("GET", path)
                return
            time.sleep(POLL_SECONDS)
        raise BenchError(f"nothing answered {path} within {PATIENCE_SECONDS} s. {_last_words(log_file)}")

    def wait_for_mode(self, *modes: str, patience_seconds: float = PATIENCE_SECONDS) -> float:
        """Returns the moment, by time.perf_counter, at which `/health` first told one of these modes."""
        deadline = time.monotonic() + patience_seconds
        while time.monotonic() < deadline:
            if self.ask("GET", "/health")["mode"] in modes:
                return time.perf_counter()
            time.sleep(POLL_SECONDS)
        raise BenchError(f"the service was not {' or '.join(modes)} within {patience_seconds} s")

    def wait_until_filled(self, patience_seconds: float) -> None:
        """Returns once the service remembers everybody, so that it can stand in for all of them."""
        deadline = time.monotonic() + patience_seconds
        while time.monotonic() < deadline:
            if self.ask("GET", "/health")["remembered"]["complete"]:
                return
            time.sleep(10 * POLL_SECONDS)
        raise BenchError(f"the service did not remember everybody within {patience_seconds} s")

    def _request(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> tuple[int, bytes]:
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        port: int = candidate.getsockname()[1]
        return port


def _last_words(log_file: Path) -> str:
    lines = [line for line in log_file.read_text(errors="replace").splitlines() if not line.startswith(" ")]
    return f"The end of its log: {' / '.join(lines[-LOG_LINES_SHOWN:])}"
