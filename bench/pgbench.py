"""Runs pgbench, which makes the same payments in plain SQL, and reads what it measured."""

import os
import re
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from psycopg2.extensions import parse_dsn

from bench.errors import BenchError

SCRIPT = Path(__file__).with_name("payment.sql")
RATE = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
FAILED = re.compile(r"^number of failed transactions: (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Payments:
    """What payments in plain SQL took: each one's latency in milliseconds."""

    rate: float
    latencies_ms: list[float]

    def percentile(self, percent: int) -> float:
        """The latency in milliseconds that this share of the payments stays below."""
        return statistics.quantiles(self.latencies_ms, n=100)[percent - 1]


def pay(program: Path, dsn: str, variables: dict[str, int], *, clients: int, seconds: int, seed: int) -> Payments:
    """Lets so many clients pay, one transaction each payment. Raises `BenchError` unless every payment was booked."""
    command = [str(program), "--no-vacuum", "--protocol=prepared", f"--client={clients}", "--jobs=1"]
    command += [f"--time={seconds}", f"--file={SCRIPT}", f"--random-seed={seed}", "--log"]
    command += [f"--define={name}={value}" for name, value in variables.items()]
    with TemporaryDirectory(prefix="aiopypay-pgbench-") as directory:
        answer = subprocess.run(
            command, cwd=directory, env=_environment(dsn), capture_output=True, text=True, check=False
        )
        if answer.returncode != 0:
            raise BenchError(f"pgbench failed: {' '.join(answer.stderr.split())}")
        log = "".join(path.read_text() for path in Path(directory).iterdir())
    return parse(answer.stdout, log)


def parse(output: str, log: str) -> Payments:
    """Reads pgbench's report and its log of transactions. Raises `BenchError` where one failed."""
    rate, failed = RATE.search(output), FAILED.search(output)
    if rate is None or (failed is not None and failed[1] != "0"):
        raise BenchError(f"pgbench did not book every payment: {' '.join(output.split())}")
    # client, transaction, microseconds, …
    return Payments(float(rate[1]), [int(line.split()[2]) / 1000 for line in log.splitlines()])


def _environment(dsn: str) -> dict[str, str]:
    """Not on the command line, where everybody could read the password."""
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE", "password": "PGPASSWORD"}
    names["require_auth"] = "PGREQUIREAUTH"
    parts = parse_dsn(dsn)
    # Its sessions pass for a node's: the booking is compared, and not the log of what others than nodes change.
    fixed = {"PATH": os.environ["PATH"], "PGOPTIONS": "-c aiopypay.node=yes"}
    return fixed | {variable: str(parts[name]) for name, variable in names.items()}
