"""What wrk told is believed only if every request was answered as expected."""

import pytest

from bench import wrk
from bench.errors import BenchError

OUTPUT = """Running 8s test @ http://127.0.0.1:8080
  1 threads and 128 connections

RESULT {"seconds":8.0,"requests":16000,"p50_ms":50.1,"p99_ms":90.2,"statuses":{"200":16000},"lost":0,"astray":""}
"""


def load(statuses: dict[str, int], lost: int = 0, astray: str = "") -> wrk.Load:
    return wrk.Load(1.0, sum(statuses.values()), 1.0, 2.0, statuses, lost, astray)


def test_the_result_is_the_line_that_the_script_prints() -> None:
    told = wrk.parse(OUTPUT)
    assert (told.rate, told.p50_ms, told.p99_ms) == (2000, 50.1, 90.2)
    assert told.statuses == {"200": 16000}


def test_no_result_ends_the_run() -> None:
    with pytest.raises(BenchError, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1")


def test_answers_as_expected_pass() -> None:
    wrk.check(load({"202": 5}), "transfer", 202)


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(load({"200": 5, "503": 1}), id="one unexpected among others"),
        pytest.param(load({"202": 5}), id="all of another status"),
        pytest.param(load({}), id="no answer at all"),
        pytest.param(load({"200": 5}, lost=1), id="a request without an answer"),
        pytest.param(load({"200": 5}, astray='{"status":"refused"}'), id="a body that is not the expected one"),
    ],
)
def test_anything_else_ends_the_run(told: wrk.Load) -> None:
    with pytest.raises(BenchError, match="every answer was to be 200"):
        wrk.check(told, "transfer", 200)
