"""Who crowds waits behind everybody else, and nobody waits without end."""

import pytest

from aiopypay import hashing_queue
from aiopypay.errors import Overloaded, TooManyRequests
from aiopypay.hashing_queue import FAILURE_SECONDS, HashingQueue
from tests.unit.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(hashing_queue, "time", clock)
    return clock


def drained(queue: HashingQueue[str]) -> list[str]:
    jobs = []
    while (job := queue.take()) is not None:
        jobs.append(job)
    assert len(queue) == 0
    return jobs


def test_sources_take_turns_and_each_keeps_its_order(clock: Clock) -> None:
    queue: HashingQueue[str] = HashingQueue(10, 10)
    for job in ("a1", "a2", "a3", "b1", "b2", "c1"):
        assert queue.add(job[0], job) is None
    assert drained(queue) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_who_failed_lately_comes_last(clock: Clock) -> None:
    queue: HashingQueue[str] = HashingQueue(10, 10)
    queue.fail("a")
    for job in ("a1", "b1", "b2", "c1"):
        queue.add(job[0], job)
    assert drained(queue) == ["b1", "c1", "b2", "a1"]
    clock.now += FAILURE_SECONDS
    for job in ("a1", "b1"):
        queue.add(job[0], job)
    assert drained(queue) == ["a1", "b1"]


def test_what_was_taken_alone_is_no_debt(clock: Clock) -> None:
    queue: HashingQueue[str] = HashingQueue(100, 10)
    for number in range(50):
        queue.add("a", f"a{number}")
        queue.take()
    for job in ("b1", "b2", "b3", "a1", "a2"):
        queue.add(job[0], job)
    assert drained(queue) == ["b1", "b2", "b3", "a1", "a2"]


def test_who_comes_anew_is_next(clock: Clock) -> None:
    queue: HashingQueue[str] = HashingQueue(1_000, 10)
    for number in range(250):
        for _ in range(3):
            queue.add(f"crowd {number}", "crowd")
    for _ in range(300):
        queue.take()
    queue.add("new", "new")
    assert queue.take() == "new"


def test_one_source_has_so_many_places(clock: Clock) -> None:
    queue: HashingQueue[str] = HashingQueue(10, 2)
    queue.add("a", "a1")
    queue.add("a", "a2")
    with pytest.raises(TooManyRequests):
        queue.add("a", "a3")
    assert queue.add("b", "b1") is None


def test_where_it_is_full_who_crowds_most_makes_room(clock: Clock) -> None:
    queue: HashingQueue[str] = HashingQueue(4, 10)
    for job in ("a1", "b1", "a2", "a3"):
        queue.add(job[0], job)
    assert queue.add("c", "c1") == "a3"
    assert queue.add("d", "d1") == "a2"
    with pytest.raises(Overloaded):
        queue.add("a", "a4")
    assert drained(queue) == ["a1", "b1", "c1", "d1"]


def test_where_nobody_crowds_the_newcomer_leaves(clock: Clock) -> None:
    queue: HashingQueue[str] = HashingQueue(2, 10)
    queue.add("a", "a1")
    queue.add("b", "b1")
    with pytest.raises(Overloaded):
        queue.add("c", "c1")


def test_who_failed_makes_room_for_who_did_not(clock: Clock) -> None:
    queue: HashingQueue[str] = HashingQueue(2, 10)
    queue.fail("a")
    queue.add("a", "a1")
    queue.add("b", "b1")
    assert queue.add("c", "c1") == "a1"


def test_what_waits_no_longer_has_no_turn(clock: Clock) -> None:
    queue: HashingQueue[str] = HashingQueue(10, 10)
    queue.add("a", "a1")
    queue.add("b", "b1")
    queue.remove("a", "a1")
    queue.remove("a", "a1")
    assert drained(queue) == ["b1"]
    queue.add("a", "a2")
    assert queue.clear() == ["a2"]
    assert len(queue) == 0


def test_memory_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing_queue, "SOURCES_MAX", 50)
    queue: HashingQueue[str] = HashingQueue(10, 10)
    for number in range(1_000):
        queue.add(str(number), "job")
        queue.fail(str(number))
        queue.take()
    assert [len(queue._next), len(queue._failed)] == [50, 50]
    assert not queue._waiting
