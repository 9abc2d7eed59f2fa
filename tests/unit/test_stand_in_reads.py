"""What is read beside the writer enters the node's memory only where no batch can be counted twice."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiopypay.stand_in.mode import ModeSwitch
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.reads import Reads
from aiopypay.stand_in.store import Store


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path / "stand-in")
    yield node
    await node.close()


def note(store: Store) -> None:
    with store.transaction(durable=False):
        store.set_setting("noted", "yes")


async def noted(node: Node) -> bool:
    return await node.run(Store.setting, "noted") == "yes"


async def test_a_read_waits_for_the_batch_that_runs(node: Node) -> None:
    switch, writers_lock = ModeSwitch(), asyncio.Lock()
    reads = Reads(node, switch, writers_lock)
    async with writers_lock:
        remembering = asyncio.create_task(reads.remember(switch.epoch, note))
        await asyncio.sleep(0)
        assert not await noted(node)
    assert await remembering
    assert await noted(node)


async def test_a_read_is_dropped_where_the_batch_that_ran_was_in_doubt(node: Node) -> None:
    switch, writers_lock = ModeSwitch(), asyncio.Lock()
    reads = Reads(node, switch, writers_lock)
    async with writers_lock:
        remembering = asyncio.create_task(reads.remember(switch.epoch, note))
        await asyncio.sleep(0)
        switch.lost("the answer to COMMIT is missing")
    assert not await remembering
    assert not await noted(node)


async def test_a_read_from_before_an_outage_is_dropped_after_it(node: Node) -> None:
    switch = ModeSwitch()
    before = switch.epoch
    switch.lost("gone")
    switch.settling()
    switch.online()
    assert not await Reads(node, switch, asyncio.Lock()).remember(before, note)
    assert not await noted(node)
