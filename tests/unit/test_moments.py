"""Which moments a node knows, over kills and losses of power; without a database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiopypay.database import Database
from aiopypay.errors import OtherMoment
from aiopypay.stand_in.deputy_work import Booked, adopt_plans, record
from aiopypay.stand_in.mode import ModeSwitch
from aiopypay.stand_in.moments import Moments
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.records import Plan
from aiopypay.stand_in.store import Store
from aiopypay.store.moments import Moment, Step
from tests.unit.stand_in_samples import entry

NOWHERE = Database("host=127.0.0.1 port=1 dbname=nowhere", connections=1)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path / "stand-in")
    yield node
    await node.close()


@pytest.fixture
def moments(node: Node) -> Moments:
    return Moments(node, ModeSwitch())


def to(step: Step) -> Moment:
    assert step.to is not None
    return step.to


async def restarted(node: Node) -> Moments:
    """What the next run of the node knows."""
    again = Moments(node, ModeSwitch())
    await again.recall()
    return again


async def test_a_step_goes_on_from_what_was_answered_and_from_what_was_not(node: Node, moments: Moments) -> None:
    first = moments.step()
    assert (list(first.known), first.is_first) == ([], True)
    await moments.note(first)
    moments.answered(first)
    second, third = moments.step(), moments.step()
    await moments.note(second)
    await moments.note(third)
    assert list(moments.step().known) == [to(first), to(second), to(third)]
    moments.answered(third)
    assert list(moments.step().known) == [to(third)], "what was in doubt before it is decided"
    assert [to(step).count for step in (first, second, third)] == [1, 2, 3]


async def test_a_moment_that_is_only_seen_proves_nothing(moments: Moments) -> None:
    first, second = moments.step(), moments.step()
    await moments.note(first)
    moments.answered(first)
    await moments.note(second)
    step = moments.step()
    step.check(to(second))
    step.check(to(first))
    for other in (None, Moment(2, to(first).token), Moment(to(first).count, to(second).token)):
        with pytest.raises(OtherMoment):
            step.check(other)


async def test_what_was_not_answered_is_known_over_a_restart(node: Node, moments: Moments) -> None:
    step = moments.step()
    await moments.note(step)
    again = await restarted(node)
    assert list(again.step().known) == [to(step)]
    assert to(again.step()).count > to(step).count


async def test_a_plan_s_moment_goes_with_it(node: Node, moments: Moments) -> None:
    def write(store: Store, number: int, step: Step) -> None:
        with store.transaction(durable=True):
            store.write_plan(number, Plan([entry(number)], to(step)))

    first, second = moments.step(), moments.step()
    await node.run(write, 1, first)
    await node.run(write, 2, second)
    await node.run(record, [Booked(1, to(first), (), ())])
    await node.run(adopt_plans)
    again = await restarted(node)
    assert list(again.step().known) == [to(first), to(second)]


async def test_a_node_without_a_disk_leaves_the_moment_as_it_is(node: Node, moments: Moments) -> None:
    step = moments.step()
    await moments.note(step)
    moments.answered(step)
    node.fence("the disk fails")
    without = moments.step()
    assert (without.to, list(without.known)) == (None, [to(step)])


@pytest.mark.parametrize(("found", "is_directory"), [(1, False), (None, False), (9, True)])
async def test_another_moment_blocks_over_restarts(
    node: Node, moments: Moments, found: int | None, is_directory: bool
) -> None:
    for _ in range(3):
        step = moments.step()
        await moments.note(step)
        moments.answered(step)
    with pytest.raises(OtherMoment):
        async with moments.checked(NOWHERE):
            raise OtherMoment(found)
    again = await restarted(node)
    assert again.blocked is not None
    assert again.blocked == moments.blocked
    assert (again.blocked.is_directory, again.is_final) == (is_directory, True)
    assert "journal replay" in again.blocked.told


async def test_of_several_servers_each_is_asked_before_the_operator(node: Node) -> None:
    moments = Moments(node, ModeSwitch(), servers=2)
    with pytest.raises(OtherMoment):
        async with moments.checked(NOWHERE):
            raise OtherMoment(None)
    assert moments.blocked is not None
    assert not moments.is_final
    assert (await restarted(node)).blocked is not None, "nothing is told meanwhile, over restarts too"
    async with moments.checked(NOWHERE):
        """It is the one that was left."""
    assert [again.blocked for again in (moments, await restarted(node))] == [None, None]
