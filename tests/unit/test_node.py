"""The node's store has one thread, from its opening to its end."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiopypay.errors import StartError
from aiopypay.stand_in.node import DEFERRED_MAX, DEFERRED_SECONDS, Node
from aiopypay.stand_in.store import Store, StoreFailed, StoreInUse


def threads_of_stores() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("stand-in")}


async def test_one_thread_opens_and_uses_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened_by: list[int] = []
    open_store = Store.open

    def noted_open(directory: Path) -> Store:
        opened_by.append(threading.get_ident())
        return open_store(directory)

    monkeypatch.setattr(Store, "open", noted_open)
    node = Node(tmp_path / "stand-in")
    used_by = await node.run(lambda _: threading.get_ident())
    assert opened_by == [used_by] != [threading.get_ident()]
    await node.close()


async def test_a_store_that_does_not_open_leaves_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(tmp_path / "stand-in")
    threads = threads_of_stores()
    with pytest.raises(StoreInUse, match="in use by another aiopypay"):
        Node(tmp_path / "stand-in")

    def failing_open(_: Path) -> Store:
        raise StoreFailed("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "open", failing_open)
        with pytest.raises(StartError, match=r"^the disk is full: make room"):
            Node(tmp_path / "another")
    assert threads_of_stores() == threads
    await node.close()


class Deferring:
    """A node, and what it has done so far."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.node = Node(directory)
        self.done: list[object] = []

    def note(self, _: Store, what: object) -> None:
        self.done.append(what)

    def defer(self, item: int, weight: int = 1) -> None:
        self.node.defer(self.note, item, weight=weight)


@pytest.fixture
async def deferring(tmp_path: Path) -> AsyncIterator[Deferring]:
    deferring = Deferring(tmp_path / "stand-in")
    yield deferring
    await deferring.node.close()


async def test_what_is_deferred_is_done_at_once_and_before_what_comes_later(deferring: Deferring) -> None:
    deferring.defer(1)
    deferring.defer(2)
    deferring.node.post(deferring.note, "posted")
    deferring.defer(3)
    await deferring.node.run(deferring.note, "run")
    assert deferring.done == [[1, 2], "posted", [3], "run"]


async def test_what_goes_first_does_not_wait_for_what_is_deferred(deferring: Deferring) -> None:
    deferring.defer(1)
    await deferring.node.start_first(deferring.note, "first")
    assert deferring.done == ["first"]
    deferring.defer(2)
    await deferring.node.run(deferring.note, "run")
    assert deferring.done == ["first", [1, 2], "run"]


async def test_what_weighs_enough_is_done_behind_what_goes_first(deferring: Deferring) -> None:
    deferring.defer(1, weight=DEFERRED_MAX - 1)
    await deferring.node.start_first(deferring.note, "first")
    deferring.defer(2)
    await deferring.node.start_first(deferring.note, "second")
    await deferring.node.start_first(deferring.note, "third")
    assert deferring.done == ["first", "second", [1, 2], "third"]


async def test_what_is_deferred_is_done_after_a_while_and_at_the_end(deferring: Deferring) -> None:
    done = threading.Event()
    deferring.node.defer(lambda _, items: done.set(), 1, weight=1)
    assert await asyncio.to_thread(done.wait, 10 * DEFERRED_SECONDS)
    deferring.defer(2)
    await deferring.node.close()
    assert deferring.done == [[2]]
    deferring.node = Node(deferring.directory)


async def test_deferred_work_that_fails_fences_the_node(deferring: Deferring) -> None:
    def fail(_: Store, __: list[int]) -> None:
        raise StoreFailed("the disk fails")

    deferring.node.defer(fail, 1, weight=1)
    await deferring.node.run(deferring.note, "run")
    assert deferring.node.fenced == "the disk fails"
