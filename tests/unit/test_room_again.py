"""A node that a full disk has fenced stands in again once there is room, if nothing else was wrong."""

import errno
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from aiopypay.errors import StandInFenced
from aiopypay.settings import OfflineSettings
from aiopypay.stand_in import deputy_work
from aiopypay.stand_in.deputy import Deputy
from aiopypay.stand_in.deputy_work import Standing
from aiopypay.stand_in.directory import MARK
from aiopypay.stand_in.mode import ModeSwitch
from aiopypay.stand_in.moments import Moments
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.records import Plan
from aiopypay.stand_in.store import Store, StoreFailed, StoreFull
from tests.unit.stand_in_samples import account, entry


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """It remembers an account, and holds the lease."""
    node = Node(tmp_path / "stand-in")
    await node.run(remember)
    await node.start_keeping()
    yield node
    await node.close()


@pytest.fixture
def deputy(node: Node) -> Deputy:
    switch = ModeSwitch()
    deputy = Deputy(node, switch, Moments(node, switch), OfflineSettings())
    deputy.standing = Standing(uuid4(), holds_lease=True, nodes=1)
    deputy.filled = True
    return deputy


def remember(store: Store) -> None:
    with store.transaction(durable=True):
        store.remember_accounts([account(7)])


def fail(_: Store, failure: Exception) -> None:
    raise failure


def damage(store: Store) -> None:
    store._connection.execute("UPDATE accounts SET content = x'00'")


def is_marked(node: Node) -> bool:
    """Whether the next start trusts what the node remembers."""
    return node._mark.exists()


async def fill(node: Node) -> None:
    with pytest.raises(StandInFenced):
        await node.run(fail, StoreFull("the disk is full"))
    assert node.fenced


async def test_without_the_database_it_goes_on_with_all_that_it_knows(node: Node, deputy: Deputy) -> None:
    deputy.switch.lost("gone")
    await fill(node)
    assert not is_marked(node)
    await deputy.reopen()
    assert deputy.fence() is None
    assert is_marked(node)
    assert await node.run(Store.account, 7)
    assert deputy.filled


async def test_online_it_forgets_and_is_filled_anew(node: Node, deputy: Deputy) -> None:
    await node.run(deputy_work.write_plan, 1, Plan([entry(1)]))
    await fill(node)
    await deputy.reopen()
    assert deputy.fence() is None
    assert is_marked(node)
    assert await node.run(Store.account, 7) is None
    assert await node.run(Store.plans) == {}
    assert deputy.forgotten.is_set()
    assert not deputy.filled


async def test_what_was_missed_online_keeps_it_fenced_without_the_database(node: Node, deputy: Deputy) -> None:
    await fill(node)
    node.check_may_book()
    deputy.switch.lost("gone")
    await deputy.reopen()
    assert node.fenced


async def test_a_batch_in_doubt_keeps_it_fenced_without_the_database(node: Node, deputy: Deputy) -> None:
    await node.run(deputy_work.write_plan, 1, Plan([entry(1)]))
    deputy.switch.lost("gone")
    await fill(node)
    await deputy.reopen()
    assert node.fenced


async def test_without_room_it_stays_fenced(node: Node, deputy: Deputy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "free_bytes", lambda _: deputy_work.ROOM_BYTES - 1)
    deputy.switch.lost("gone")
    await fill(node)
    await deputy.reopen()
    assert node.fenced


@pytest.mark.parametrize("is_first", [True, False])
async def test_after_any_other_failure_it_stays_fenced(node: Node, deputy: Deputy, is_first: bool) -> None:
    deputy.switch.lost("gone")
    failures = [StoreFailed("the disk fails"), StoreFull("the disk is full")]
    for failure in failures if is_first else reversed(failures):
        with pytest.raises(StandInFenced):
            await node.run(fail, failure)
    await deputy.reopen()
    assert node.fenced


async def test_damage_is_found_before(node: Node, deputy: Deputy) -> None:
    deputy.switch.lost("gone")
    await fill(node)
    await node.run(damage)
    with pytest.raises(StandInFenced, match="accounts"):
        await deputy.reopen()
    assert node.is_damaged
    assert not is_marked(node)
    # Nor is a disk told to be full for that.
    assert node.contents.free_bytes > 0


async def test_what_cannot_be_written_after_all_keeps_it_fenced(
    node: Node, deputy: Deputy, monkeypatch: pytest.MonkeyPatch
) -> None:
    deputy.switch.lost("gone")
    await fill(node)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "set_setting", lambda *_: fail(node._store, StoreFull("still full")))
        with pytest.raises(StandInFenced):
            await deputy.reopen()
    assert node.fenced
    assert not is_marked(node)
    await deputy.reopen()
    assert node.fenced is None


async def test_a_mark_that_is_made_and_not_certainly_on_disk_is_removed(
    node: Node, deputy: Deputy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a node that stays fenced books what it does not remember, and its next start trusts what it remembers."""
    deputy.switch.lost("gone")
    await fill(node)

    def not_synced(directory: Path) -> None:
        (directory / MARK).touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("aiopypay.stand_in.node.trust", not_synced)
        with pytest.raises(StandInFenced):
            await deputy.reopen()
    assert node.fenced
    assert not is_marked(node)
    await deputy.reopen()
    assert is_marked(node)
    assert node.fenced is None


@pytest.mark.parametrize("is_up", [True, False])
async def test_the_moment_that_the_database_holds_is_known_after_a_kill(
    node: Node, deputy: Deputy, is_up: bool
) -> None:
    """Its COMMIT was answered, which the full disk did not take; the next one is noted, and never sent."""
    moments = deputy.moments
    answered = moments.step()
    await moments.note(answered)
    moments.answered(answered)
    if not is_up:
        deputy.switch.lost("gone")
    await fill(node)
    await deputy.reopen()
    await moments.note(moments.step())
    again = Moments(node, ModeSwitch())
    await again.recall()
    assert answered.to in again.step_to_nowhere().known
