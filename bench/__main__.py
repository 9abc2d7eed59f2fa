"""Measures the service against the same payments in plain SQL and against bare aiohttp, in alternating rounds.

Everything runs in a directory of its own, on free ports, and is gone in the end.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from aiopypay.embedded import EmbeddedError
from bench import chart, report, wrk
from bench.errors import BenchError
from bench.progress import doing, done
from bench.rounds import alternate
from bench.rows import ROWS, Result, Round, Row, result
from bench.service import Client
from bench.site import Site, running_site
from bench.stretches import STRETCHES, Stretches

WARM_UP_SECONDS = 2
RESULTS = Path("build/bench")


def main() -> None:
    """The command. Exit status 1 for a broken run; a missed target is told in the table and breaks nothing."""
    # The servers are stopped on SIGTERM as they are on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = _options()
    try:
        wrk.program()
        rounds, results = measure(options)
    except (BenchError, EmbeddedError) as error:
        sys.exit(f"bench: {error}")
    print("\n".join(["", *report.table(rounds, results)]))
    settings = {name: value for name, value in vars(options).items() if not isinstance(value, Path)}
    _write(options.json, json.dumps(report.document(rounds, results, settings), indent=2) + "\n")
    _write(options.chart, chart.svg("aiopypay: what ./run.sh bench measured", results))


def measure(options: argparse.Namespace) -> tuple[list[Round], list[Result]]:
    """Runs everything that the options ask for; returns the rounds, and the results by row."""
    doing(f"starting; {options.users} users register")
    with running_site(options.users) as site:
        rows = _rows(site, options.only)
        Stretches(site, WARM_UP_SECONDS).take("transfers")
        needed = {name for row in rows for name in row.stretches}
        stretches = Stretches(site, options.seconds)
        rounds = alternate([name for name in STRETCHES if name in needed], options.rounds, stretches.take)
        site.check()
    done("All balances sum to zero, each is the sum of its transfers, no accepted order was refused.")
    return rounds, [result(row, rounds) for row in rows]


def _rows(site: Site, only: Sequence[str] | None) -> list[Row]:
    rows = [row for row in ROWS if not only or row.name in only]
    if not Client(site.service.port).has_route("POST", f"/users/{site.users[0].id}/transfers/bulk"):
        done("This service has no bulk route: that row is left out.")
        rows = [row for row in rows if "bulk" not in row.stretches]
    return rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run.sh bench", description=__doc__)
    names = [row.name for row in ROWS]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=8, help="of each stretch of load (default: 8)")
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--only", nargs="+", choices=names, metavar="ROW", help=f"just these: {', '.join(names)}")
    parser.add_argument("--json", type=Path, default=RESULTS / "results.json", metavar="FILE")
    parser.add_argument("--chart", type=Path, default=RESULTS / "results.svg", metavar="FILE")
    return parser.parse_args()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"Written: {path}")


if __name__ == "__main__":
    main()
