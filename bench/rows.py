"""The rows of the table: which figures of a round are compared, and what the ratio should be."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.stretches import Figures

Round = Mapping[str, Figures]


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. `ratio` and `target` are taken of each round; their medians are compared."""

    name: str
    title: str
    stretches: tuple[str, ...]
    ratio: Callable[[Round], float]
    target: Callable[[Round], float]
    at_least: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """A row's medians over the rounds."""

    name: str
    title: str
    ratio: float
    target: float
    at_least: bool

    @property
    def is_met(self) -> bool:
        """Whether the ratio is on the right side of the target."""
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


def result(row: Row, rounds: Sequence[Round]) -> Result:
    """The row's medians."""
    ratio = statistics.median(row.ratio(figures) for figures in rounds)
    target = statistics.median(row.target(figures) for figures in rounds)
    return Result(row.name, row.title, ratio, target, row.at_least)


def best_pgbench(figures: Round) -> float:
    """The payments per second of pgbench, at the number of clients that suits it best."""
    return max(figures["pgbench, 8 clients"].rate, figures["pgbench, 32 clients"].rate)


def spread(figures: Figures) -> float:
    """The p99 as a multiple of the p50."""
    return _known(figures.p99_ms) / _known(figures.p50_ms)


def _rates(one: str, other: str) -> Callable[[Round], float]:
    return lambda figures: figures[one].rate / figures[other].rate


def _always(target: float) -> Callable[[Round], float]:
    return lambda _: target


def _single_latency(figures: Round) -> float:
    plain = _known(figures["pgbench, 1 client"].p50_ms)
    bare = _known(figures["bare POST, 1 connection"].p50_ms)
    return _known(figures["transfers, 1 connection"].p50_ms) / (plain + 1.5 * bare)


def _known(figure: float | None) -> float:
    assert figure is not None
    return figure


PGBENCH = ("pgbench, 8 clients", "pgbench, 32 clients")

ROWS = (
    Row(
        "transfers",
        "transfers, 128 connections / pgbench",
        ("transfers", *PGBENCH),
        lambda figures: figures["transfers"].rate / best_pgbench(figures),
        _always(3.0),
    ),
    Row(
        "bare",
        "transfers, 128 connections / bare aiohttp",
        ("transfers", "bare POST"),
        _rates("transfers", "bare POST"),
        _always(0.60),
    ),
    Row(
        "p99",
        "p99 / p50 of transfers, 128 connections",
        ("transfers", "bare POST"),
        lambda figures: spread(figures["transfers"]),
        lambda figures: max(2.5, spread(figures["bare POST"])),
        at_least=False,
    ),
    Row(
        "latency",
        "p50 of a transfer / (pgbench + 1.5 × bare), 1 connection",
        ("transfers, 1 connection", "pgbench, 1 client", "bare POST, 1 connection"),
        _single_latency,
        _always(1.0),
        at_least=False,
    ),
    Row(
        "reads",
        "GET /accounts/{id}, 128 connections / bare aiohttp",
        ("accounts", "bare GET"),
        _rates("accounts", "bare GET"),
        _always(0.45),
    ),
)
