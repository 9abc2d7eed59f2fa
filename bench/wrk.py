"""Runs wrk, the load generator, and reads what it measured."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.errors import BenchError

SCRIPT = Path(__file__).with_name("load.lua")
# One thread sends far more than any Python program answers; a second one would only take turns with what is measured.
THREADS = 1
TIMEOUT_SECONDS = 10
ITEMS_OF_A_BULK_REQUEST = 1000


@dataclass(frozen=True, slots=True)
class Target:
    """Where to: a port of this machine, the file that names the users, and how many connections are kept open."""

    port: int
    users: Path
    connections: int


class Load(msgspec.Struct, frozen=True):
    """What a stretch of load was answered. `lost` requests had no answer; `astray` is an answer not expected."""

    seconds: float
    requests: int
    p50_ms: float
    p99_ms: float
    statuses: dict[str, int]
    lost: int
    astray: str

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.requests / self.seconds


def send(target: Target, kind: str, seconds: int, seed: int, expected: int = 200) -> Load:
    """Sends requests of this kind (see load.lua) as fast as they are answered.

    Raises `BenchError` unless all of them were answered as expected.
    """
    command = [program(), f"-t{THREADS}", f"-c{target.connections}", f"-d{seconds}s", f"--timeout={TIMEOUT_SECONDS}s"]
    command += ["-s", str(SCRIPT), f"http://127.0.0.1:{target.port}", "--"]
    command += [kind, str(target.users), str(expected), str(seed)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise BenchError(f"wrk failed: {' '.join((answer.stdout + answer.stderr).split())}")
    load = parse(answer.stdout)
    check(load, kind, expected)
    return load


def parse(output: str) -> Load:
    """Reads the line that load.lua ends with. Raises `BenchError` where there is none."""
    for line in output.splitlines():
        if line.startswith("RESULT "):
            return msgspec.json.decode(line.removeprefix("RESULT "), type=Load)
    raise BenchError(f"wrk told no result: {' '.join(output.split())}")


def check(load: Load, kind: str, expected: int) -> None:
    """Raises `BenchError` unless there were answers, all of them with this status, and none was lost."""
    if load.statuses.keys() != {str(expected)} or load.lost or load.astray:
        raise BenchError(
            f"{kind}: every answer was to be {expected}, and they were {load.statuses or 'none'}, {load.lost} lost. "
            f"The first other one: {load.astray}"
        )


def program() -> str:
    """The path of wrk. Raises `BenchError` with how to install it where it is missing."""
    path = shutil.which("wrk")
    if path is None:
        raise BenchError("wrk, the load generator, is missing: install it, for example with: apt-get install wrk")
    return path
