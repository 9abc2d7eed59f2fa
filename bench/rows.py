"""The rows of the table: which figures of a round are compared, and what the ratio should be."""

import statistics
from collections.abc import Callable, Mapping, Sequence

import msgspec

from bench.stretches import Figures

Round = Mapping[str, Figures]


class Row(msgspec.Struct, frozen=True):
    """One comparison. `ratio` and `target` are taken of each round; their medians are compared."""

    name: str
    title: str
    stretches: tuple[str, ...]
    ratio: Callable[[Round], float]
    target: Callable[[Round], float]
    at_least: bool = True


class Result(msgspec.Struct, frozen=True):
    """What a row came to: a ratio, or megabytes, and where it should be."""

    name: str
    title: str
    measured: float
    target: float
    at_least: bool = True

    @property
    def is_met(self) -> bool:
        """Whether it is on the right side of the target."""
        return self.measured >= self.target if self.at_least else self.measured <= self.target


def result(row: Row, rounds: Sequence[Round]) -> Result:
    """The row's medians over the rounds."""
    ratio = statistics.median(row.ratio(figures) for figures in rounds)
    target = statistics.median(row.target(figures) for figures in rounds)
    return Result(row.name, row.title, ratio, target, row.at_least)


def best_pgbench(figures: Round) -> float:
    """The payments per second of pgbench, at the number of clients that suits it best."""
    return max(figures[name].rate for name in PGBENCH)


def spread(figures: Figures) -> float:
    """The p99 as a multiple of the p50."""
    return known(figures.p99_ms) / known(figures.p50_ms)


def rates(one: str, other: str) -> Callable[[Round], float]:
    """The ratio of the rates of two stretches."""
    return lambda figures: figures[one].rate / figures[other].rate


def always(target: float) -> Callable[[Round], float]:
    """A target that is the same whatever was measured."""
    return lambda _: target


def known(figure: float | None) -> float:
    """A figure that its stretch is sure to have."""
    assert figure is not None
    return figure


def _single_latency(figures: Round) -> float:
    plain = known(figures["pgbench, 1 client"].p50_ms)
    bare = known(figures["bare POST, 1 connection"].p50_ms)
    return known(figures["transfers, 1 connection"].p50_ms) / (plain + 1.5 * bare)


PGBENCH = ("pgbench, 8 clients", "pgbench, 32 clients")

ROWS = (
    Row(
        "transfers",
        "transfers, 128 connections : pgbench",
        ("transfers", *PGBENCH),
        lambda figures: figures["transfers"].rate / best_pgbench(figures),
        always(3),
    ),
    Row(
        "bare",
        "transfers, 128 connections : bare aiohttp",
        ("transfers", "bare POST"),
        rates("transfers", "bare POST"),
        always(0.6),
    ),
    Row(
        "p99",
        "transfers, 128 connections: p99 : p50",
        ("transfers", "bare POST"),
        lambda figures: spread(figures["transfers"]),
        lambda figures: max(2.5, spread(figures["bare POST"])),
        at_least=False,
    ),
    Row(
        "latency",
        "p50 of one connection : pgbench's + 1.5 × bare aiohttp's",
        ("transfers, 1 connection", "pgbench, 1 client", "bare POST, 1 connection"),
        _single_latency,
        always(1),
        at_least=False,
    ),
    Row(
        "reads",
        "GET /accounts/{id}, 128 connections : bare aiohttp",
        ("accounts", "bare GET"),
        rates("accounts", "bare GET"),
        always(0.45),
    ),
    Row(
        "bulk",
        "bulk transfers : pgbench",
        ("bulk", *PGBENCH),
        lambda figures: figures["bulk"].rate / best_pgbench(figures),
        always(10),
    ),
    Row(
        "stand-in",
        "202s without the database : 200s",
        ("transfers", "outage"),
        rates("stand-in", "transfers"),
        always(1),
    ),
    Row("settling", "settling : single transfers", ("transfers", "outage"), rates("settling", "transfers"), always(2)),
)
