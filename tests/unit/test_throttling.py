"""The counters of the throttle: who waits for how long, and what strangers can make them hold."""

from contextlib import ExitStack

import pytest

from aiopypay import throttling
from aiopypay.errors import TooManyRequests
from aiopypay.throttling import FAILURES_PER_MINUTE, FREE, PerMinute, Throttle
from tests.unit.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throttling, "time", clock)
    return clock


def attempt(throttle: Throttle, succeeded: bool, username: str = "vasya", address: str = "192.0.2.1") -> int:
    """Makes an attempt; returns for how long the door was closed already, 0: it was open."""
    try:
        with throttle.attempt(username, address) as made:
            made.succeeded = succeeded
    except TooManyRequests as refusal:
        return refusal.retry_after_seconds or 0
    return 0


def fail(throttle: Throttle, username: str = "vasya", address: str = "192.0.2.1") -> int:
    return attempt(throttle, False, username, address)


def known_at(address: str) -> Throttle:
    throttle = Throttle()
    assert attempt(throttle, True, address=address) == 0
    return throttle


def waits(throttle: Throttle, clock: Clock, count: int) -> list[int]:
    """How long each further failure closes the door for."""
    found = []
    for _ in range(count):
        found.append(fail(throttle))
        clock.now += found[-1] - 0.5
        assert fail(throttle) == 1
        clock.now += 0.5
        assert fail(throttle) == 0
    return found


def test_each_further_failure_closes_the_door_for_twice_as_long(clock: Clock) -> None:
    throttle = known_at("192.0.2.1")
    assert [fail(throttle) for _ in range(FREE)] == [0] * FREE
    assert waits(throttle, clock, 9) == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_to_strangers_for_longer(clock: Clock) -> None:
    throttle = Throttle()
    for _ in range(FREE):
        assert fail(throttle) == 0
    clock.now += 60
    # Beside what all addresses together may.
    for _ in range(6):
        assert fail(throttle) == 0
        clock.now += 60
    assert waits(throttle, clock, 6) == [4, 128, 256, 512, 900, 900]


def test_failures_are_forgotten(clock: Clock) -> None:
    throttle = Throttle()
    for _ in range(FREE):
        fail(throttle)
    clock.now += throttling.FAILURES_REMEMBERED_SECONDS + 1
    assert [fail(throttle) for _ in range(FREE)] == [0] * FREE


def test_a_success_forgives_what_failed_from_there(clock: Clock) -> None:
    throttle = known_at("192.0.2.1")
    for _ in range(3):
        for _ in range(FREE - 1):
            assert fail(throttle) == 0
        assert attempt(throttle, True) == 0


def test_one_user_is_not_guessed_more_than_ten_times_a_minute_from_all_strangers_together(clock: Clock) -> None:
    throttle = known_at("198.51.100.1")
    verified = []
    for second in range(600):
        clock.now += 1
        addresses = (f"192.0.2.{number}" for number in range(250))
        verified.append(sum(fail(throttle, "vasya", address) == 0 for address in addresses))
        assert fail(throttle, f"another{second}", "192.0.2.1") == 0, "another user is not concerned"
    windows = [sum(verified[start : start + 60]) for start in range(0, 600, 60)]
    assert max(windows) <= FAILURES_PER_MINUTE + 1
    assert attempt(throttle, True, "vasya", "192.0.2.250") > 0, "also with the right password"
    assert attempt(throttle, True, "vasya", "198.51.100.1") == 0, "but where they logged in before"


def test_of_strangers_failures_a_success_forgives_nothing(clock: Clock) -> None:
    throttle = Throttle()
    for number in range(FAILURES_PER_MINUTE - 1):
        fail(throttle, "vasya", f"192.0.2.{number}")
    assert attempt(throttle, True, "vasya", "198.51.100.1") == 0
    assert fail(throttle, "vasya", "192.0.2.100") == 0
    assert fail(throttle, "vasya", "192.0.2.101") > 0


def test_attempts_under_way_count(clock: Clock) -> None:
    throttle = Throttle()
    running = [throttle.attempt("vasya", f"192.0.2.{number}") for number in range(FAILURES_PER_MINUTE)]
    for entered in running:
        entered.__enter__()
    assert fail(throttle, "vasya", "198.51.100.1") == 1
    for entered in running:
        entered.__exit__(None, None, None)
    assert fail(throttle, "vasya", "198.51.100.1") == 0
    assert not throttle._running


def test_no_name_is_anybodys_door(clock: Clock) -> None:
    """Whoever calls themselves by an address and a name keeps nobody out there."""
    throttle = known_at("192.0.2.1")
    with ExitStack() as under_way:
        for number in range(FAILURES_PER_MINUTE):
            under_way.enter_context(throttle.attempt("192.0.2.1 vasya", f"198.51.100.{number}"))
        assert attempt(throttle, True) == 0


def test_what_was_not_verified_counts_as_nothing(clock: Clock) -> None:
    throttle = Throttle()
    for _ in range(FREE + 5):
        with pytest.raises(RuntimeError), throttle.attempt("vasya", "192.0.2.1"):
            raise RuntimeError("too many are being verified")
    assert fail(throttle) == 0


def test_registrations_are_counted_by_the_minute(clock: Clock) -> None:
    throttle = Throttle()
    for _ in range(2):
        throttle.registration("192.0.2.1", per_minute=2)
    with pytest.raises(TooManyRequests) as refusal:
        throttle.registration("192.0.2.1", per_minute=2)
    assert refusal.value.retry_after_seconds == 60
    throttle.registration("192.0.2.2", per_minute=2)
    clock.now += 60
    throttle.registration("192.0.2.1", per_minute=2)


def test_memory_is_bounded_and_the_attacked_user_stays(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttling, "COUNTERS_MAX", 50)
    throttle = Throttle()
    for number in range(1_000):
        fail(throttle, f"user{number}", f"192.0.2.{number}")
    for _ in range(FREE):
        fail(throttle)
    for number in range(49):
        fail(throttle, f"user{number}", f"192.0.2.{number}")
    assert len(throttle._doors) == 50
    assert len(throttle._failures._windows) == 50
    assert not throttle._running
    assert fail(throttle) > 0
    counted = PerMinute()
    for number in range(100):
        counted.add(str(number))
    assert len(counted._windows) == 50
