"""Measures the service against the same payment in plain SQL and against bare aiohttp, in alternating rounds."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

import msgspec

from aiopypay.embedded import EmbeddedError
from bench.errors import BenchError
from bench.report import HEADER, figures_line, table
from bench.rows import ROWS, Round, Row, result
from bench.site import Site, running_site
from bench.stretches import STRETCHES, Figures, Stretches

SUM_OF_BALANCES = "SELECT currency_id, sum(amount) FROM accounts GROUP BY currency_id HAVING sum(amount) <> 0"


def main() -> None:
    """The command. Exit status 1 for a broken run; a missed target is told in the table."""
    parser = argparse.ArgumentParser(prog="./run.sh bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=8, help="of each stretch")
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--only", nargs="+", choices=[row.name for row in ROWS], metavar="ROW", help="just these rows")
    parser.add_argument("--json", type=Path, default=Path("build/bench/results.json"))
    arguments = parser.parse_args()
    rows = [row for row in ROWS if not arguments.only or row.name in arguments.only]
    try:
        with running_site(arguments.users) as site:
            rounds = measure(site, rows, arguments.rounds, arguments.seconds)
            check(site)
    except (BenchError, EmbeddedError) as error:
        sys.exit(f"bench: {error}")
    results = [result(row, rounds) for row in rows]
    print("\n".join(["", *table(rounds, results)]))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"rounds": msgspec.to_builtins(rounds)}, indent=2))


def measure(site: Site, rows: Sequence[Row], number_of_rounds: int, seconds: int) -> list[Round]:
    """Takes the stretches that the rows need, round by round, every second round in the opposite order."""
    names = [name for name in STRETCHES if any(name in row.stretches for row in rows)]
    warm = Stretches(site, 1)
    for name in names:
        warm.take(name)
    print(f"{'':<22}{HEADER}")
    stretches, rounds, started = Stretches(site, seconds), [], monotonic()
    for number in range(number_of_rounds):
        figures: dict[str, Figures] = {}
        for name in names if number % 2 == 0 else reversed(names):
            for taken, its_figures in stretches.take(name).items():
                figures[taken] = its_figures
                print(
                    f"{monotonic() - started:>6.0f} s round {number + 1}/{number_of_rounds}  {figures_line(taken, its_figures)}",
                    flush=True,
                )
        rounds.append({name: figures[name] for name in sorted(figures, key=list(STRETCHES).index)})
    return rounds


def check(site: Site) -> None:
    """Raises `BenchError` unless all balances sum to zero."""
    if astray := site.query(SUM_OF_BALANCES):
        raise BenchError(f"balances do not sum to zero: {astray}")


if __name__ == "__main__":
    main()
