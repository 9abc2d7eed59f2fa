"""Whose turn argon2 is: kinds of work have shares, sources have turns, and what waits is bounded."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import pytest

from aiopypay import passwords
from aiopypay.errors import Overloaded, TooManyRequests
from aiopypay.passwords import Passwords, Work


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[Passwords]:
    """As on a machine with two cores."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(passwords, "MEMORY_KIB", 64)
    with contextlib.closing(Passwords()) as made:
        yield made


class Held:
    """Keeps the thread busy until it is let go; what is asked for meanwhile waits."""

    def __init__(self, busy: Passwords) -> None:
        self._go = threading.Event()
        self.order: list[str] = []
        self._busy = busy
        self._first = asyncio.create_task(self._run("first", Work.LOGIN, "nobody", self._go.wait))
        self._tasks = [self._first]

    async def waiting(self, label: str, work: Work, source: str) -> None:
        """Returns once the work waits."""
        self._tasks.append(asyncio.create_task(self._run(label, work, source, lambda: None)))
        await asyncio.sleep(0)

    async def let_go(self) -> list[str]:
        """Returns what was done or refused, in order, without the first."""
        self._go.set()
        await asyncio.gather(*self._tasks)
        return [label for label in self.order if label != "first"]

    async def _run(self, label: str, work: Work, source: str, function: object) -> None:
        def note() -> None:
            function()  # type: ignore[operator]
            self.order.append(label)

        try:
            await self._busy._in_turn(work, source, note)
        except (Overloaded, TooManyRequests) as refusal:
            self.order.append(f"{label}: {refusal.status}")


async def held(busy: Passwords) -> Held:
    made = Held(busy)
    await asyncio.sleep(0)
    return made


async def test_kinds_of_work_take_turns(one_thread: Passwords) -> None:
    busy = await held(one_thread)
    for number in range(3):
        await busy.waiting(f"registration {number}", Work.REGISTRATION, f"192.0.2.{number}")
    await busy.waiting("change", Work.CHANGE, "vasya")
    await busy.waiting("login", Work.LOGIN, "192.0.2.1")
    await busy.waiting("known", Work.KNOWN_LOGIN, "192.0.2.1")
    order = await busy.let_go()
    assert set(order[:4]) == {"registration 0", "change", "login", "known"}
    assert order[4:] == ["registration 1", "registration 2"]


async def test_sources_take_turns(one_thread: Passwords) -> None:
    busy = await held(one_thread)
    for label in ("a1", "a2", "a3", "b1", "b2"):
        await busy.waiting(label, Work.LOGIN, label[0])
    assert await busy.let_go() == ["a1", "b1", "a2", "b2", "a3"]


async def test_who_sent_wrong_passwords_waits_behind_who_did_not(one_thread: Passwords) -> None:
    assert not await one_thread.verify(one_thread.nobodys_hash, "wrong", Work.LOGIN, "a")
    encoded = await one_thread.hash("right")
    assert await one_thread.verify(encoded, "right", Work.LOGIN, "b")
    busy = await held(one_thread)
    for label in ("a1", "b1", "b2", "c1"):
        await busy.waiting(label, Work.LOGIN, label[0])
    assert await busy.let_go() == ["c1", "b1", "b2", "a1"]


async def test_what_waits_is_bounded_by_source_and_in_all(
    one_thread: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "QUEUE_MAX", 3)
    monkeypatch.setattr(passwords, "QUEUE_OF_SOURCE_MAX", 2)
    with contextlib.closing(Passwords()) as bounded:
        busy = await held(bounded)
        for label in ("a1", "a2", "a3", "b1", "c1"):
            await busy.waiting(label, Work.LOGIN, label[0])
        assert await busy.let_go() == ["a3: 429", "a2: 503", "a1", "b1", "c1"]


async def test_whose_turn_does_not_come_in_time_is_refused(
    one_thread: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = await held(one_thread)
    monkeypatch.setattr(passwords, "WAIT_SECONDS", 0.01)
    with pytest.raises(Overloaded):
        await one_thread.hash("password", Work.LOGIN, "a")
    assert await busy.let_go() == []
    assert await one_thread.hash("password", Work.LOGIN, "a")


async def test_a_caller_that_leaves_leaves_the_queue(one_thread: Passwords) -> None:
    busy = await held(one_thread)
    leaver = asyncio.create_task(one_thread.hash("password", Work.LOGIN, "a"))
    await asyncio.sleep(0)
    leaver.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await leaver
    assert len(one_thread._queues[Work.LOGIN]) == 0
    await busy.let_go()


async def test_at_the_end_what_waits_is_refused(one_thread: Passwords) -> None:
    busy = await held(one_thread)
    await busy.waiting("a", Work.LOGIN, "a")
    one_thread.close()
    assert await busy.let_go() == ["a: 503"]


async def test_half_of_the_cores_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads in ((1, 1), (2, 1), (8, 4)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        with contextlib.closing(Passwords()) as made:
            assert made._idle == threads
