"""Long work in slices: others are served in between, and one user has only so many places."""

import asyncio
import time

import pytest

from aiopypay import slices as module
from aiopypay.errors import Overloaded
from aiopypay.slices import AT_ONCE, SLICE_SECONDS, Slices


def slow(item: int) -> int:
    """Takes half a slice."""
    until = time.perf_counter() + SLICE_SECONDS / 2
    while time.perf_counter() < until:
        pass
    return -item


async def test_others_are_served_between_slices() -> None:
    slices = Slices()
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    assert await slices.map(slow, range(40)) == [-item for item in range(40)]
    other.cancel()
    assert turns >= 40 // 3


async def test_two_large_requests_take_turns() -> None:
    slices = Slices()
    order: list[str] = []

    def note(item: str) -> str:
        order.append(item)
        slow(0)
        slow(0)
        return item

    await asyncio.gather(slices.map(note, "a" * 20), slices.map(note, "b" * 20))
    assert "b" in order[:4]
    assert "a" in order[-4:]


async def test_what_fails_is_told_and_gives_the_turn_back() -> None:
    slices = Slices()
    with pytest.raises(ZeroDivisionError):
        await slices.map(lambda item: 1 / item, [1, 0])
    assert await slices.map(abs, [-1]) == [1]
    assert await slices.map(abs, []) == []


async def test_a_user_has_so_many_places_and_others_have_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 1)
    slices = Slices()
    at_work: list[int] = []
    done = asyncio.Event()

    async def work(user_id: int) -> None:
        async with slices.place(user_id):
            at_work.append(user_id)
            await done.wait()

    tasks = [asyncio.create_task(work(user_id)) for user_id in (7, 7, 7, 7, 8)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert at_work == [7] * AT_ONCE + [8]
    done.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None)] * 3 + [Overloaded, type(None)]
    async with slices.place(7):
        pass
