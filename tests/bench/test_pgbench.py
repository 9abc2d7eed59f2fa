"""Payments in plain SQL keep the same books as the service's."""

from pathlib import Path

import pytest

from aiopypay.embedded import EmbeddedError, EmbeddedPostgres
from bench import crowd, pgbench
from bench.books import check, query
from bench.errors import BenchError
from bench.users import BenchUser, payment_variables

USERS = 10
REPORT = "number of failed transactions: {failed} (0.000%)\ntps = 812.5 (without initial connection time)\n"
LOG = "0 1 1000 0 1700000000 1\n" * 50 + "1 1 9000 0 1700000000 2\n" * 50


def test_rate_and_latencies_are_read() -> None:
    payments = pgbench.parse(REPORT.format(failed=0), LOG)
    assert payments.rate == 812.5
    assert (payments.percentile(10), payments.percentile(99)) == (1, 9)


def test_a_failed_payment_ends_the_run() -> None:
    with pytest.raises(BenchError, match="did not book every payment"):
        pgbench.parse(REPORT.format(failed=3), LOG)


def test_users_whose_ids_are_not_in_steps_end_the_run() -> None:
    users = [BenchUser(2, 4, ""), BenchUser(3, 7, ""), BenchUser(5, 10, "")]
    with pytest.raises(BenchError, match="in steps"):
        payment_variables(users)


@pytest.fixture
def program(postgres: EmbeddedPostgres) -> Path:
    """pgbench, which some installations of PostgreSQL leave out."""
    try:
        return postgres.program("pgbench")
    except EmbeddedError as error:
        pytest.skip(str(error))


def test_payments_in_plain_sql_keep_the_books(program: Path, empty_database_url: str) -> None:
    crowd.fill(empty_database_url, USERS, transfers=100)
    check(empty_database_url)
    before = _payments(empty_database_url)
    variables = payment_variables(crowd.holders(USERS, USERS))
    booked = pgbench.pay(program, empty_database_url, variables, clients=4, seconds=1, seed=1)
    check(empty_database_url)
    assert _payments(empty_database_url) - before == len(booked.latencies_ms) > 0


def _payments(dsn: str) -> int:
    return int(query(dsn, "SELECT count(*) FROM transfers WHERE kind = 'payment'")[0][0])
