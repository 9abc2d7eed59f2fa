"""Whoever waits for the disk gives up where it does not answer; what was handed over is done all the same."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aiopypay.errors import DiskHangs
from aiopypay.stand_in import disk as disks
from aiopypay.stand_in.disk import Disk

LOOK_SECONDS = 0.02
SOON_SECONDS = 10.0


class Stuck:
    """Work that hangs until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def __call__(self) -> str:
        assert self.let_go.wait(SOON_SECONDS)
        return "done"


@pytest.fixture
async def disk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Disk]:
    monkeypatch.setattr(disks, "LOOK_SECONDS", LOOK_SECONDS)
    disk = Disk()
    yield disk
    disk.end()


@pytest.fixture
async def stuck(disk: Disk) -> AsyncIterator[Stuck]:
    """Let go in the end."""
    stuck = Stuck()
    yield stuck
    stuck.let_go.set()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_SECONDS):
        while not condition():  # noqa: ASYNC110 - nobody can tell us
            await asyncio.sleep(LOOK_SECONDS / 2)


async def test_who_waits_is_told_that_it_hangs_and_who_is_patient_has_the_answer(disk: Disk, stuck: Stuck) -> None:
    answer = disk.ask(stuck)
    behind = disk.in_time(disk.ask(lambda: "behind"))
    with pytest.raises(DiskHangs):
        await disk.in_time(answer)
    with pytest.raises(DiskHangs):
        await behind
    with pytest.raises(DiskHangs):
        disk.in_time(answer)
    assert disk.hangs
    assert (disk.silent_seconds or 0) > 0
    stuck.let_go.set()
    assert await answer == "done"


async def test_it_hangs_until_all_is_done_that_was_handed_over(disk: Disk, stuck: Stuck) -> None:
    told: list[str] = []
    disk.on_answer.append(lambda: told.append("answers"))
    first, second = Stuck(), stuck
    disk.ask(first)
    last = disk.ask(second)
    await until(lambda: disk.hangs)
    first.let_go.set()
    await until(lambda: disk._done == 1)
    await asyncio.sleep(3 * LOOK_SECONDS)
    assert disk.hangs
    second.let_go.set()
    assert await last == "done"
    await until(lambda: not disk.hangs)
    assert told == ["answers"]
    assert await disk.in_time(disk.ask(lambda: 1)) == 1


async def test_one_that_answers_slowly_does_not_hang(disk: Disk) -> None:
    ended = threading.Event()

    def slow() -> None:
        while not ended.wait(LOOK_SECONDS / 2):
            disk.step()

    answer = disk.in_time(disk.ask(slow))
    await asyncio.wait({answer}, timeout=3 * disks.SILENT_LOOKS * LOOK_SECONDS)
    assert not answer.done()
    assert not disk.hangs
    ended.set()
    await answer


async def test_a_process_that_is_frozen_itself_does_not_blame_the_disk(disk: Disk, stuck: Stuck) -> None:
    answer = disk.in_time(disk.ask(stuck))
    await asyncio.sleep(0)
    stuck.let_go.wait(2 * disks.SILENT_LOOKS * LOOK_SECONDS)
    stuck.let_go.set()
    assert await answer == "done"


async def test_at_rest_nobody_looks(disk: Disk) -> None:
    assert await disk.ask(lambda: 1) == 1
    await until(lambda: disk._next_look is None)


async def test_a_failure_is_told_to_who_waits_and_does_not_end_the_thread(disk: Disk) -> None:
    def fail() -> None:
        raise ValueError("a test")

    with pytest.raises(ValueError, match="a test"):
        await disk.in_time(disk.ask(fail))
    assert await disk.ask(lambda: 1) == 1


async def test_who_is_cancelled_does_not_stop_the_work(disk: Disk, stuck: Stuck) -> None:
    answer: asyncio.Future[Any] = disk.ask(stuck)
    waiting = disk.in_time(answer)
    waiting.cancel()
    stuck.let_go.set()
    assert await answer == "done"
