"""How fast payments are answered with the database up (200) and down (202), and how fast they are settled after.

Run by `./run.sh bench`. Both rates come from one run, in alternating rounds; the machine's speed cancels out.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psycopg2
import uvloop

from aiopypay.embedded import EmbeddedPostgres
from bench.load import Measured, Payer, pay

CONNECTIONS = 32
PAYERS = 100
PORT = 18080
PATIENCE_SECONDS = 60

SUM_OF_BALANCES = "SELECT currency_id, sum(amount) FROM accounts GROUP BY currency_id HAVING sum(amount) <> 0"
REFUSED = "SELECT count(*) FROM orders WHERE status = 'refused'"


def main() -> None:
    """Runs the rounds and prints the table; `--json` writes the figures, too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of load in each mode, each round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="aiopypay-bench-"))
    postgres = EmbeddedPostgres(directory)
    try:
        postgres.start()
        with service(directory, postgres):
            figures = uvloop.run(measure(postgres, arguments.rounds, arguments.seconds, arguments.seed))
        check(postgres)
        print_table(figures)
        if arguments.json:
            arguments.json.write_text(json.dumps(figures, indent=2))
    finally:
        postgres.stop("immediate")
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def service(directory: Path, postgres: EmbeddedPostgres) -> Iterator[None]:
    """The service as `./run.sh prod` runs it, for as long as the body takes."""
    environment = os.environ | {
        "APP_DATA_DIR": str(directory / "service"),
        "APP_PORT": str(PORT),
        "APP_SIGNUP_CREDIT": "USD:1000000",
        "DATABASE_URL": postgres.dsn,
    }
    with (directory / "service.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "aiopypay", "serve"], env=environment, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


async def measure(postgres: EmbeddedPostgres, rounds: int, seconds: float, seed: int) -> list[dict[str, float]]:
    """Returns the figures of each round."""
    await wait_for_mode("online")
    payers = await register(PAYERS)
    await pay(PORT, payers, CONNECTIONS, 2.0, seed)
    figures = []
    for number in range(rounds):
        online = await pay(PORT, payers, CONNECTIONS, seconds, seed + number)
        await asyncio.to_thread(postgres.stop)
        offline = await pay(PORT, payers, CONNECTIONS, seconds, seed + number)
        await asyncio.to_thread(postgres.start)
        figures.append(figures_of(online, offline, await settling_seconds()))
        print(f"round {number + 1} of {rounds}: {figures[-1]}", flush=True)
    return figures


def figures_of(online: Measured, offline: Measured, settling: float) -> dict[str, float]:
    """Returns a round's figures: answers per second, latencies in milliseconds, ratios."""
    unexpected = {**online.statuses, **offline.statuses}.keys() - {200, 202}
    if unexpected:
        raise SystemExit(f"unexpected answers: online {online.statuses}, offline {offline.statuses}")
    return {
        "online_rate": round(online.rate(200), 1),
        "online_p50_ms": round(online.percentile(0.5), 2),
        "online_p99_ms": round(online.percentile(0.99), 2),
        "stand_in_rate": round(offline.rate(202), 1),
        "stand_in_p50_ms": round(offline.percentile(0.5), 2),
        "stand_in_p99_ms": round(offline.percentile(0.99), 2),
        "settling_rate": round(offline.statuses[202] / settling, 1),
        "stand_in_to_online": round(offline.rate(202) / online.rate(200), 3),
        "settling_to_acceptance": round(offline.statuses[202] / settling / offline.rate(202), 3),
    }


async def register(number: int) -> list[Payer]:
    """Registers users and returns them with their first account."""
    payers = []
    async with aiohttp.ClientSession(f"http://127.0.0.1:{PORT}") as session:
        for n in range(number):
            name, password = f"payer{n}", f"correct horse {n}"
            async with session.post("/users", data={"username": name, "password": password}) as response:
                user = await response.json()
            auth = aiohttp.encode_basic_auth(name, password)
            async with session.get(f"/users/{user['id']}/accounts", headers={"Authorization": auth}) as response:
                accounts = await response.json()
            payers.append(Payer(user["id"], name, password, accounts[0]["id"]))
    return payers


async def settling_seconds() -> float:
    """Waits until the journal is empty; returns the seconds since settling was first seen."""
    await wait_for_mode("settling", "online")
    started = time.perf_counter()
    await wait_for_mode("online")
    return time.perf_counter() - started


async def wait_for_mode(*modes: str) -> None:
    """Returns once `/health` tells one of these modes."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    async with aiohttp.ClientSession(f"http://127.0.0.1:{PORT}") as session:
        while time.monotonic() < deadline:
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with session.get("/health") as response:
                    if (await response.json())["mode"] in modes:
                        return
            await asyncio.sleep(0.005)
    raise SystemExit(f"the service was not {' or '.join(modes)} within {PATIENCE_SECONDS} s")


def check(postgres: EmbeddedPostgres) -> None:
    """Ends the run unless all balances sum to zero and nothing accepted was refused."""
    connection = psycopg2.connect(postgres.dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute(SUM_OF_BALANCES)
        astray = cursor.fetchall()
        cursor.execute(REFUSED)
        refused = cursor.fetchone()
    connection.close()
    if astray or refused != (0,):
        raise SystemExit(f"balances do not sum to zero: {astray}; refused at settling: {refused}")


def print_table(figures: list[dict[str, float]]) -> None:
    """Prints the median of each figure over the rounds."""
    print(
        f"\nMedians of {len(figures)} rounds, {CONNECTIONS} connections, {PAYERS} users, every payment with commission"
    )
    for name in figures[0]:
        print(f"{name:>24}  {statistics.median(figure[name] for figure in figures):>10}")
    print("All balances sum to zero; no accepted order was refused.")


if __name__ == "__main__":
    main()
