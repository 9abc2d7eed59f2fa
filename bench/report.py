"""The table that a run ends with."""

import statistics
from collections.abc import Iterable, Iterator, Sequence

from bench.rows import Result, Round
from bench.stretches import Figures


def figures_line(name: str, figures: Figures) -> str:
    """One line of figures: rate, p50, p99 in milliseconds, CPU seconds per 1000 requests of service and database."""
    columns = [
        _column(figures.rate, 9, 0),
        _column(figures.p50_ms, 9, 2),
        _column(figures.p99_ms, 9, 2),
        _column(figures.service_cpu, 9, 3),
        _column(figures.database_cpu, 9, 3),
    ]
    return f"{name:<27}{''.join(columns)}"


HEADER = f"{'':<27}{'per s':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU s/1000, service, database':>31}"


def table(rounds: Sequence[Round], results: Iterable[Result]) -> Iterator[str]:
    """The lines: medians of the figures, then the ratios against their targets."""
    yield f"Medians of {len(rounds)} rounds"
    yield HEADER
    for name in rounds[0]:
        yield figures_line(name, median([figures[name] for figures in rounds]))
    yield ""
    for result in results:
        sign = "≥" if result.at_least else "≤"
        verdict = "met" if result.is_met else "MISSED"
        yield f"{result.title:<58}{result.ratio:>7.2f}  {sign} {result.target:.2f}  {verdict}"


def median(figures: Sequence[Figures]) -> Figures:
    """The medians, figure by figure."""
    return Figures(
        *(_median([getattr(one, name) for one in figures]) for name in Figures.__struct_fields__)  # type: ignore[arg-type]
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _column(value: float | None, width: int, decimals: int) -> str:
    return f"{'–' if value is None else format(value, f'.{decimals}f'):>{width}}"
