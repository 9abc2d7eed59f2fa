"""Batches: what arrives while one runs forms the next; nobody waits for company, nobody pays for a neighbour."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from aiopypay.batches import Batcher
from aiopypay.errors import CommitInDoubt, DatabaseUnavailable, InsufficientFunds, Overloaded

Outcome = str | Exception


class Runner:
    """Runs batches as the test says: each waits until it is let go, and is remembered."""

    def __init__(self, outcome: Callable[[str], Outcome] = str.upper) -> None:
        self.batches: list[list[str]] = []
        self.running = 0
        self.started = asyncio.Semaphore(0)
        self.gate = asyncio.Semaphore(0)
        self.failures: list[BaseException] = []
        self._outcome = outcome

    async def run(self, items: list[str]) -> Sequence[Outcome]:
        assert self.running == 0, "two batches at once"
        self.running += 1
        self.batches.append(items)
        self.started.release()
        try:
            await self.gate.acquire()
            if self.failures:
                raise self.failures.pop(0)
            return [self._outcome(item) for item in items]
        finally:
            self.running -= 1

    def let_go(self, batches: int = 1) -> None:
        for _ in range(batches):
            self.gate.release()

    def batcher(self, *, batch_size: int = 100, queue_size: int = 100) -> Batcher[str, str]:
        return Batcher(self.run, batch_size=batch_size, queue_size=queue_size)


def submit_all(batcher: Batcher[str, str], items: str) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(batcher.submit(item)) for item in items]


async def settle(tasks: Sequence[asyncio.Task[str]]) -> list[str | BaseException]:
    async with asyncio.timeout(5):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_lone_item_never_waits() -> None:
    runner = Runner()
    runner.let_go()
    assert await runner.batcher().submit("a") == "A"
    assert runner.batches == [["a"]]


async def test_what_arrives_while_a_batch_runs_forms_the_next() -> None:
    runner = Runner()
    batcher = runner.batcher()
    first = submit_all(batcher, "a")
    await runner.started.acquire()
    others = submit_all(batcher, "bcd")
    runner.let_go(2)
    assert await settle([*first, *others]) == ["A", "B", "C", "D"]
    assert runner.batches == [["a"], ["b", "c", "d"]]


async def test_batches_are_bounded_and_keep_the_order_of_arrival() -> None:
    runner = Runner()
    batcher = runner.batcher(batch_size=3)
    tasks = submit_all(batcher, "abcdefgh")
    runner.let_go(8)
    assert await settle(tasks) == list("ABCDEFGH")
    assert [item for batch in runner.batches for item in batch] == list("abcdefgh")
    assert max(len(batch) for batch in runner.batches) == 3


async def test_an_exception_is_its_own_callers_alone() -> None:
    runner = Runner(lambda item: InsufficientFunds(item) if item == "b" else item.upper())
    tasks = submit_all(runner.batcher(), "abc")
    runner.let_go(3)
    first, refused, last = await settle(tasks)
    assert (first, last) == ("A", "C")
    assert isinstance(refused, InsufficientFunds)


async def test_a_batch_that_fails_fails_for_each_of_its_callers() -> None:
    runner = Runner()
    runner.failures = [RuntimeError("defect")]
    tasks = submit_all(runner.batcher(), "abc")
    runner.let_go(3)
    outcomes = await settle(tasks)
    assert all(isinstance(outcome, RuntimeError) for outcome in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == 3, "each caller raises an exception of its own"


async def test_it_goes_on_after_a_failure() -> None:
    runner = Runner()
    batcher = runner.batcher()
    runner.failures = [RuntimeError("defect")]
    runner.let_go(2)
    with pytest.raises(RuntimeError):
        await batcher.submit("a")
    assert await batcher.submit("b") == "B"


async def test_a_batch_in_doubt_is_nobodys_doubt_but_its_own() -> None:
    runner = Runner()
    batcher = runner.batcher(batch_size=1)
    runner.failures = [CommitInDoubt("no answer")]
    tasks = submit_all(batcher, "abc")
    runner.let_go(3)
    in_doubt, *behind = await settle(tasks)
    assert isinstance(in_doubt, CommitInDoubt)
    assert behind == ["B", "C"]
    assert runner.batches == [["a"], ["b"], ["c"]]


async def test_it_goes_on_after_the_database_was_away() -> None:
    runner = Runner()
    batcher = runner.batcher()
    runner.failures = [DatabaseUnavailable("away")]
    runner.let_go(2)
    with pytest.raises(DatabaseUnavailable):
        await batcher.submit("a")
    assert await batcher.submit("b") == "B"


async def test_a_full_queue_refuses_at_once() -> None:
    runner = Runner()
    batcher = runner.batcher(queue_size=2)
    tasks = submit_all(batcher, "a")
    await runner.started.acquire()
    tasks += submit_all(batcher, "bc")
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await batcher.submit("d")
    runner.let_go(2)
    assert await settle(tasks) == ["A", "B", "C"]
    runner.let_go()
    assert await batcher.submit("d") == "D"


async def test_a_caller_that_leaves_before_its_batch_takes_its_item_out() -> None:
    runner = Runner()
    batcher = runner.batcher()
    first = submit_all(batcher, "a")
    await runner.started.acquire()
    leaver, stayer = submit_all(batcher, "bc")
    await asyncio.sleep(0)
    leaver.cancel()
    runner.let_go(2)
    outcomes = await settle([*first, leaver, stayer])
    assert isinstance(outcomes[1], asyncio.CancelledError)
    assert outcomes[2] == "C"
    assert runner.batches == [["a"], ["c"]]


async def test_a_caller_that_leaves_during_its_batch_changes_nothing_for_the_others() -> None:
    runner = Runner()
    batcher = runner.batcher()
    leaver, stayer = submit_all(batcher, "ab")
    await runner.started.acquire()
    leaver.cancel()
    await asyncio.wait([leaver])
    runner.let_go(1)
    assert await settle([stayer]) == ["B"]
    assert runner.batches == [["a", "b"]]


async def test_draining_waits_for_everything_submitted() -> None:
    runner = Runner()
    batcher = runner.batcher(batch_size=1)
    tasks = submit_all(batcher, "abc")
    await runner.started.acquire()
    drained = asyncio.create_task(batcher.drain())
    await asyncio.sleep(0)
    assert not drained.done()
    runner.let_go(3)
    async with asyncio.timeout(5):
        await drained
    assert [task.done() for task in tasks] == [True] * 3


async def test_draining_an_idle_one_returns_at_once() -> None:
    await Runner().batcher().drain()


def weighed(runner: Runner, *, batch_size: int, queue_size: int = 100) -> Batcher[str, str]:
    """Items weigh what their length is."""
    return Batcher(runner.run, batch_size=batch_size, queue_size=queue_size, weigh=len)


async def test_heavy_items_share_a_batch_as_far_as_they_fit() -> None:
    runner = Runner()
    batcher = weighed(runner, batch_size=5)
    tasks = [asyncio.create_task(batcher.submit(item)) for item in ("aa", "bbb", "c", "dddd", "e")]
    runner.let_go(5)
    assert await settle(tasks) == ["AA", "BBB", "C", "DDDD", "E"]
    assert runner.batches == [["aa", "bbb"], ["c", "dddd"], ["e"]]


async def test_what_is_heavier_than_a_batch_runs_alone_and_overtakes_nobody() -> None:
    runner = Runner()
    batcher = weighed(runner, batch_size=3)
    tasks = [asyncio.create_task(batcher.submit(item)) for item in ("a", "bbbbb", "c", "d")]
    runner.let_go(5)
    await settle(tasks)
    assert runner.batches == [["a"], ["bbbbb"], ["c", "d"]]


async def test_the_queue_is_bounded_by_weight() -> None:
    runner = Runner()
    batcher = weighed(runner, batch_size=10, queue_size=4)
    tasks = [asyncio.create_task(batcher.submit("a"))]
    await runner.started.acquire()
    tasks.append(asyncio.create_task(batcher.submit("bbb")))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await batcher.submit("cc")
    tasks.append(asyncio.create_task(batcher.submit("d")))
    runner.let_go(2)
    assert await settle(tasks) == ["A", "BBB", "D"]


async def test_what_is_heavier_than_the_queue_is_taken_when_nothing_waits() -> None:
    runner = Runner()
    batcher = weighed(runner, batch_size=2, queue_size=3)
    runner.let_go(2)
    assert await batcher.submit("aaaaa") == "AAAAA"
    assert await batcher.submit("aaaaa") == "AAAAA"


async def test_a_heavy_item_whose_caller_leaves_makes_room() -> None:
    runner = Runner()
    batcher = weighed(runner, batch_size=3, queue_size=100)
    first = asyncio.create_task(batcher.submit("a"))
    await runner.started.acquire()
    leaver, stayers = asyncio.create_task(batcher.submit("bbb")), submit_all(batcher, "cd")
    await asyncio.sleep(0)
    leaver.cancel()
    runner.let_go(2)
    assert await settle([first, *stayers]) == ["A", "C", "D"]
    assert runner.batches == [["a"], ["c", "d"]]


def cutting(runner: Runner) -> Batcher[str, str]:
    """A batcher of texts, whose users are their first letters, and which may be cut anywhere."""
    return Batcher(
        runner.run,
        batch_size=200,
        queue_size=1000,
        weigh=len,
        user_of=lambda item: item[0],
        cut=lambda item, size: (item[:size], item[size:]),
        join="".join,
    )


async def test_what_is_cut_for_others_is_one_to_its_caller() -> None:
    runner = Runner()
    batcher = cutting(runner)
    first = asyncio.create_task(batcher.submit("light"))
    await runner.started.acquire()
    heavy, light = asyncio.create_task(batcher.submit("heavy" * 20)), asyncio.create_task(batcher.submit("light"))
    await asyncio.sleep(0)
    runner.let_go(100)
    assert await settle([first, heavy, light]) == ["LIGHT", "HEAVY" * 20, "LIGHT"]
    parts = [item for batch in runner.batches for item in batch if item != "light"]
    assert len(parts) > 1
    assert "".join(parts) == "heavy" * 20


async def test_a_failure_of_one_part_is_told_and_the_rest_is_left() -> None:
    runner = Runner(lambda _: DatabaseUnavailable("away"))
    batcher = cutting(runner)
    first = asyncio.create_task(batcher.submit("l"))
    await runner.started.acquire()
    heavy = asyncio.create_task(batcher.submit("h" * 100))
    await asyncio.sleep(0)
    runner.let_go(100)
    outcomes = await settle([first, heavy])
    await batcher.drain()
    assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 2
    assert len(runner.batches) == 2
