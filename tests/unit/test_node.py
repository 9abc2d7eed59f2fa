"""The node's store has one thread, from its opening to its end."""

import threading
from pathlib import Path

import pytest

from aiopypay.errors import StartError
from aiopypay.stand_in.node import Node
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
