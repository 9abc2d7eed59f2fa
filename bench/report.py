"""What a run came to, as a table and as JSON."""

import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from bench.rows import Result, Round
from bench.stretches import Figures

NAME_WIDTH = 34
HEADER = f"{'':<{NAME_WIDTH}}{'per s':>9}{'p50 ms':>9}{'p99 ms':>9}   CPU s per 1000: service database"


class Run(msgspec.Struct):
    """Rounds on one site, or two that are compared, and what they came to; megabytes where memory was measured."""

    rounds: list[Round]
    results: list[Result]
    memory_mb: dict[str, list[float]] = {}


def figures_line(name: str, figures: Figures) -> str:
    """One line under the header."""
    cells = [(figures.rate, 9, 0), (figures.p50_ms, 9, 2), (figures.p99_ms, 9, 2)]
    cells += [(figures.service_cpu, 26, 3), (figures.database_cpu, 9, 3)]
    return f"{name:<{NAME_WIDTH}}" + "".join(_cell(*cell) for cell in cells)


def result_line(result: Result) -> str:
    """What was compared, the ratio, its target, and whether it is met."""
    sign, verdict = "≥" if result.at_least else "≤", "met" if result.is_met else "MISSED"
    return f"{result.title:<64}{result.measured:>8.2f}  {sign} {result.target:<6.2f} {verdict}"


def table(runs: Sequence[Run]) -> Iterator[str]:
    """The lines of the table: the medians of the figures, then the ratios."""
    for run in runs:
        if run.rounds:
            yield f"Medians of {len(run.rounds)} rounds:"
            yield HEADER
            yield from (figures_line(name, figures) for name, figures in medians(run.rounds).items())
            yield ""
    yield from (result_line(result) for run in runs for result in run.results)


def medians(rounds: Sequence[Round]) -> Round:
    """The medians over the rounds, figure by figure."""
    return {name: _median([figures[name] for figures in rounds]) for name in rounds[0]}


def document(runs: Sequence[Run], options: dict[str, Any]) -> dict[str, Any]:
    """All of it for a JSON file."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "options": options,
        "results": [{**msgspec.to_builtins(result), "met": result.is_met} for run in runs for result in run.results],
        "medians": msgspec.to_builtins([medians(run.rounds) for run in runs if run.rounds]),
        "rounds": msgspec.to_builtins([run.rounds for run in runs if run.rounds]),
        "memory_mb": {name: samples for run in runs for name, samples in run.memory_mb.items()},
    }


def _median(figures: Sequence[Figures]) -> Figures:
    return msgspec.convert({name: _middle(figures, name) for name in Figures.__struct_fields__}, Figures)


def _middle(figures: Sequence[Figures], name: str) -> float | None:
    values = [value for value in (getattr(one, name) for one in figures) if value is not None]
    return statistics.median(values) if values else None


def _cell(value: float | None, width: int, decimals: int) -> str:
    return f"{'–' if value is None else format(value, f'.{decimals}f'):>{width}}"
