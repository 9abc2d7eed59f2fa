"""Measures the service against the same payments in plain SQL and against bare aiohttp, in alternating rounds.

Everything runs in a directory of its own, on free ports, and is gone in the end.
"""

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg2

from aiopypay.embedded import EmbeddedError
from bench import chart, full, report, wrk
from bench.books import check
from bench.errors import BenchError
from bench.progress import doing, done
from bench.report import Run
from bench.rounds import alternate
from bench.rows import ROWS, result
from bench.site import running_site
from bench.stretches import STRETCHES, Stretches, warm_up

RESULTS = Path("build/bench")
NAMES = [row.name for row in ROWS]


def main() -> None:
    """The command. Exit status 1 for a broken run; a missed target is told in the table and breaks nothing."""
    # The servers are stopped on SIGTERM as they are on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = _options()
    try:
        wrk.program()
        runs = list(_runs(options))
    except (BenchError, EmbeddedError, psycopg2.Error, OSError) as error:
        sys.exit(f"bench: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(130)
    done("All balances sum to zero, each is the sum of its transfers, no accepted order was refused.")
    print("\n".join(["", *report.table(runs)]))
    settings = {name: value for name, value in vars(options).items() if not isinstance(value, Path)}
    _write(options.json, json.dumps(report.document(runs, settings), indent=2) + "\n")
    _write(options.chart, chart.svg("aiopypay: what ./run.sh bench measured", [r for run in runs for r in run.results]))


def _runs(options: argparse.Namespace) -> Iterator[Run]:
    names = options.only or [*NAMES, *(full.NAMES if options.full else ())]
    if any(name in names for name in NAMES):
        yield _against_others(names, options)
    if any(name in names for name in full.NAMES):
        size = full.size_of(options.accounts, options.transfers, options.users)
        yield full.measure(names, size, options.rounds, options.seconds, options.load_seconds)


def _against_others(names: Sequence[str], options: argparse.Namespace) -> Run:
    doing(f"starting; {options.users} users register")
    with running_site(options.users) as site:
        rows = [row for row in ROWS if row.name in names]
        warm_up(site)
        needed = {name for row in rows for name in row.stretches}
        stretches = Stretches(site, options.seconds)
        rounds = alternate([name for name in STRETCHES if name in needed], options.rounds, stretches.take)
        check(site.postgres.dsn)
    return Run(rounds, [result(row, rounds) for row in rows])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./run.sh bench", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="each takes every stretch once")
    add("--seconds", type=int, default=8, help="of each stretch")
    add("--users", type=int, default=100, help="who pay each other")
    add("--only", nargs="+", choices=[*NAMES, *full.NAMES], metavar="ROW", help="of %(choices)s")
    add("--full", action="store_true", help="large tables against empty ones, and memory, too: an hour")
    add("--accounts", type=int, default=1_000_000, help="of the large tables")
    add("--transfers", type=int, default=10_000_000, help="of the large tables")
    add("--load-seconds", type=int, default=600, help="for which memory is watched")
    add("--json", type=Path, default=RESULTS / "results.json", metavar="FILE", help="all figures")
    add("--chart", type=Path, default=RESULTS / "results.svg", metavar="FILE", help="the ratios as SVG")
    return parser.parse_args()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"Written: {path}")


if __name__ == "__main__":
    main()
