"""Ratios are taken round by round; what counts is their median."""

import pytest

from bench.rows import ROWS, Result, Round, Row, always, best_pgbench, rates, result
from bench.stretches import STRETCHES, Figures

BY_NAME = {row.name: row for row in ROWS}


def rounds(*pairs: tuple[float, float]) -> list[Round]:
    return [{"one": Figures(one), "other": Figures(other)} for one, other in pairs]


def test_the_median_is_of_the_ratios_not_of_the_rates() -> None:
    row = Row("row", "one : other", ("one", "other"), rates("one", "other"), always(2))
    found = result(row, rounds((100, 50), (300, 100), (10, 20)))
    assert (found.measured, found.target, found.is_met) == (2, 2, True)


@pytest.mark.parametrize(
    ("measured", "at_least", "is_met"), [(3.0, True, True), (2.9, True, False), (3.0, False, True), (3.1, False, False)]
)
def test_a_target_is_met_from_its_own_side(measured: float, at_least: bool, is_met: bool) -> None:
    assert Result("row", "row", measured, 3.0, at_least).is_met is is_met


def test_pgbench_counts_with_the_clients_that_suit_it() -> None:
    assert best_pgbench({"pgbench, 8 clients": Figures(900), "pgbench, 32 clients": Figures(700)}) == 900


@pytest.mark.parametrize(("bare_p99", "target"), [(20.0, 2.5), (40.0, 4.0)])
def test_p99_may_spread_as_far_as_bare_aiohttp_does(bare_p99: float, target: float) -> None:
    figures = {"transfers": Figures(1, 50, 100), "bare POST": Figures(1, 10, bare_p99)}
    found = result(BY_NAME["p99"], [figures])
    assert (found.measured, found.target) == (2, target)


def test_one_connection_has_the_time_of_pgbench_and_of_bare_aiohttp_one_and_a_half_times() -> None:
    figures = {
        "transfers, 1 connection": Figures(1, 2.0),
        "pgbench, 1 client": Figures(1, 1.0),
        "bare POST, 1 connection": Figures(1, 2.0),
    }
    assert result(BY_NAME["latency"], [figures]).measured == 0.5


def test_every_row_needs_stretches_that_there_are() -> None:
    assert {name for row in ROWS for name in row.stretches} == STRETCHES.keys()
