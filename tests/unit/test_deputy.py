"""The plans of batches: on disk before COMMIT, and off it again where nothing was booked, whatever else fails."""

import asyncio
import errno
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

from aiopypay.errors import CommitInDoubt, DatabaseBusy, StandInFenced
from aiopypay.ledger import TransferOrder
from aiopypay.planning import PlannedOrder
from aiopypay.settings import OfflineSettings
from aiopypay.stand_in import node as node_module
from aiopypay.stand_in.deputy import Deputy
from aiopypay.stand_in.deputy_work import Standing, adopt_plans, drop_plans
from aiopypay.stand_in.mode import ModeSwitch
from aiopypay.stand_in.moments import Moments
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.store import Store, StoreFailed
from aiopypay.store.accounts import AccountState
from aiopypay.store.moments import Step
from tests.unit.stand_in_samples import NOON, account, currency, entry, order_id, record


def plan(number: int) -> PlannedOrder:
    planned = entry(number)
    return PlannedOrder(planned.order, planned.transfers, planned.balance, planned.decimals, Decimal("0.01"))


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path / "stand-in")
    await node.start_keeping()
    yield node
    await node.close()


@pytest.fixture
def deputy(node: Node) -> Deputy:
    switch = ModeSwitch()
    return Deputy(node, switch, Moments(node, switch), OfflineSettings())


# No database is asked while a plan is written, unless that takes long.
NO_CONNECTION: Any = SimpleNamespace(connection=SimpleNamespace(deadline=None))


async def planned(node: Node) -> list[int]:
    """The orders of the plans on disk. What is deferred is done before they are looked up."""
    plans = await node.run(Store.plans)
    return [number for number in range(20) for plan in plans.values() if plan.entries[0].order.id == order_id(number)]


async def keep(deputy: Deputy, *numbers: int) -> Step:
    step = deputy.moments.step()
    await deputy.keep_plan([plan(number) for number in numbers], step).kept(NO_CONNECTION)
    return step


async def book(deputy: Deputy, number: int, balance: int = 90) -> None:
    step = await keep(deputy, number)
    deputy.record([AccountState(1, 2, "USD", Decimal(balance), number, NOON, NOON)], [record(number)], step)


async def test_the_plan_of_a_booked_batch_goes_with_its_record(node: Node, deputy: Deputy) -> None:
    await book(deputy, 1)
    await book(deputy, 2)
    step = await keep(deputy, 3)
    assert await planned(node) == [3]
    known = await node.run(Store.account, 1)
    assert known is not None
    assert known.version == 2
    await deputy.withdraw_plan(step)
    assert await planned(node) == []


async def test_until_then_a_process_that_is_killed_leaves_all_plans(tmp_path: Path, node: Node, deputy: Deputy) -> None:
    for number in (1, 2, 3):
        await book(deputy, number)
    copy = tmp_path / "as the kill leaves it"
    copy.mkdir(mode=0o700)
    for file in (tmp_path / "stand-in").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    store = Store.open(copy)
    assert store.damage is None
    assert [plan.entries[0].order.id for plan in store.plans().values()] == [order_id(number) for number in (1, 2, 3)]
    store.close()
    assert await planned(node) == []


def failing(monkeypatch: pytest.MonkeyPatch, method: str, why: str) -> None:
    """From now on this method of the store fails."""

    def fail(*_: Any) -> None:
        raise StoreFailed(why)

    monkeypatch.setattr(Store, method, fail)


def fail_syncs(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on what is written is written, and nobody knows whether it is on disk."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(node._store._tail, "write", fail)


async def test_a_batch_that_was_not_booked_is_not_planned_whatever_fails_beside_it(
    node: Node, deputy: Deputy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await book(deputy, 1)
    failing(monkeypatch, "remember_accounts", "the disk was full for a moment")
    step = await keep(deputy, 2)
    await planned(node)
    assert node.fenced == "the disk was full for a moment"
    await deputy.withdraw_plan(step)
    assert await planned(node) == [1], "it was booked, and is not recorded"


async def test_a_batch_whose_plan_cannot_be_noted_is_tried_again_without(
    node: Node, deputy: Deputy, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "write_plan", "the disk fails")
    step = deputy.moments.step()
    with pytest.raises(DatabaseBusy):
        await deputy.keep_plan([plan(1)], step).kept(NO_CONNECTION)
    await deputy.withdraw_plan(step)
    without = deputy.moments.step()
    assert without.to is None, "a moment that the disk does not have would look like a directory that was put back"
    await deputy.keep_plan([plan(1)], without).kept(NO_CONNECTION)


async def test_where_its_plan_may_be_booked_at_the_next_start_nothing_is(
    node: Node, deputy: Deputy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise OSError("read-only")

    failing(monkeypatch, "write_plan", "the disk fails")
    monkeypatch.setattr(node_module, "distrust", refuse)
    with pytest.raises(CommitInDoubt, match="the disk fails"):
        await deputy.keep_plan([plan(1)], deputy.moments.step()).kept(NO_CONNECTION)


async def test_a_start_that_trusts_nothing_drops_what_was_planned(node: Node, deputy: Deputy) -> None:
    step = await keep(deputy, 1)
    await node.run(drop_plans)
    assert await planned(node) == []
    await deputy.moments.recall()
    assert deputy.moments.step().known == [step.to], "its COMMIT may have landed"


async def test_one_that_lost_its_disk_since_its_step_was_made_is_tried_again_without(
    node: Node, deputy: Deputy
) -> None:
    step = deputy.moments.step()
    node.fence("the disk fails")
    with pytest.raises(DatabaseBusy):
        await deputy.keep_plan([plan(1)], step).kept(NO_CONNECTION)


async def test_who_cannot_be_sure_that_a_plan_is_gone_is_told(
    node: Node, deputy: Deputy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(node_module, "distrust", refuse)
    step = await keep(deputy, 2)
    failing(monkeypatch, "withdraw_plans", "the disk fails")
    with pytest.raises(StandInFenced, match="Outcome unknown"):
        await deputy.withdraw_plan(step)
    again, other = plan(2).order, plan(3).order
    assert [type(answer) for answer in deputy.put_off([again, other]).values()] == [CommitInDoubt]
    group = uuid4()
    assert len(deputy.put_off([replace(order, group=group) for order in (again, other)])) == 2


async def test_an_order_whose_plan_is_withdrawn_is_judged_again(node: Node, deputy: Deputy) -> None:
    step = await keep(deputy, 2)
    withdrawing = asyncio.create_task(deputy.withdraw_plan(step))
    await asyncio.sleep(0)
    assert deputy.put_off([plan(2).order])
    await withdrawing
    assert not deputy.put_off([plan(2).order])


async def test_a_plan_that_a_full_disk_did_not_take_need_not_be_withdrawn(
    node: Node, deputy: Deputy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as momentarily:
        failing(momentarily, "write_plan", "the disk is full")
        step = deputy.moments.step()
        with pytest.raises(DatabaseBusy):
            await deputy.keep_plan([plan(2)], step).kept(NO_CONNECTION)
    failing(monkeypatch, "withdraw_plans", "the disk is full")
    await deputy.withdraw_plan(step)
    assert not deputy.put_off([plan(2).order])


@pytest.mark.parametrize("is_fenced_before", [True, False])
async def test_a_batch_in_doubt_that_the_journal_does_not_take_is_not_judged_again(
    node: Node, deputy: Deputy, monkeypatch: pytest.MonkeyPatch, is_fenced_before: bool
) -> None:
    await keep(deputy, 2)
    if is_fenced_before:
        node.fence("something else")
    fail_syncs(node, monkeypatch)
    [answer] = (await deputy.adopt_plan([plan(2)])).values()
    assert isinstance(answer, CommitInDoubt)
    assert deputy.put_off([plan(2).order])


async def test_an_order_that_may_be_in_the_journal_is_not_judged_again(
    node: Node, deputy: Deputy, monkeypatch: pytest.MonkeyPatch
) -> None:
    deputy.standing = Standing(uuid4(), holds_lease=True, nodes=1)
    deputy.switch.lost("test")
    fail_syncs(node, monkeypatch)
    [answer] = await deputy.accept([plan(2).order])
    assert isinstance(answer, StandInFenced)
    assert deputy.put_off([plan(2).order])


async def test_nothing_is_accepted_or_told_on_balances_without_what_could_not_be_recorded(
    node: Node, deputy: Deputy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def know(store: Store) -> None:
        with store.transaction(durable=True):
            store.remember_currencies([currency("USD")])
            store.remember_accounts([account(1, "100.00"), account(2, "0.00", user_id=3)])

    await node.run(know)
    deputy.standing = Standing(uuid4(), holds_lease=True, nodes=1)
    await book(deputy, 1, balance=0)
    with monkeypatch.context() as momentarily:
        failing(momentarily, "remember_accounts", "the disk was full for a moment")
        deputy.switch.lost("test")
        [answer] = await deputy.accept([TransferOrder(uuid4(), 2, 1, 2, Decimal(90), None, b"")])
    assert isinstance(answer, StandInFenced)
    with pytest.raises(StandInFenced, match="cannot be relied upon"):
        await deputy.read(Store.account, 1)
    assert await node.run(Store.pending_count) == 0


async def test_it_is_the_same_for_what_is_read_before_it_is_recorded(
    node: Node, deputy: Deputy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await book(deputy, 1)
    failing(monkeypatch, "remember_accounts", "the disk is full")
    with pytest.raises(StandInFenced, match="cannot be relied upon"):
        await deputy.read(Store.account, 1)


async def test_what_is_only_noted_does_not_end_the_stand_in(
    node: Node, deputy: Deputy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.run(lambda store: setattr(store, "orders_max", 0))
    await book(deputy, 1)
    await node.run(Store.plans)
    failing(monkeypatch, "set_setting", "the disk is full")
    failing(monkeypatch, "trim_orders", "the disk is full")
    deputy.switch.lost("test")
    deputy.note_away()
    await deputy.trim_orders()
    assert node.fenced is None


async def test_a_plan_of_what_the_journal_holds_does_not_hinder_a_start(node: Node, deputy: Deputy) -> None:
    def settled(store: Store) -> None:
        with store.transaction(durable=True):
            store.append([entry(1)])
            store.mark_posted([1], NOON)

    await node.run(settled)
    await keep(deputy, 1, 2)
    adopted = await node.run(adopt_plans)
    assert [entry.order.id for entry in adopted] == [order_id(2)]
    assert await planned(node) == []
    assert await node.run(Store.pending_count) == 1
