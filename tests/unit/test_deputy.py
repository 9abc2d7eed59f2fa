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

from aiopypay.errors import CommitInDoubt, StandInFenced
from aiopypay.ledger import TransferOrder
from aiopypay.planning import PlannedOrder
from aiopypay.settings import OfflineSettings
from aiopypay.stand_in.deputy import Deputy
from aiopypay.stand_in.deputy_work import Standing, adopt_plans
from aiopypay.stand_in.mode import ModeSwitch
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.store import Store, StoreFailed
from aiopypay.store.accounts import AccountState
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
    return Deputy(node, ModeSwitch(), OfflineSettings())


# No database is asked while a plan is written, unless that takes long.
NO_CONNECTION: Any = SimpleNamespace(connection=SimpleNamespace(deadline=None))


async def keep(deputy: Deputy, plans: list[PlannedOrder]) -> None:
    """The plan is on disk when it returns."""
    await deputy.keep_plan(plans).kept(NO_CONNECTION)


async def planned(node: Node) -> list[int]:
    """The orders of the plans on disk. What is deferred is done before they are looked up."""
    plans = await node.run(Store.plans)
    return [number for number in range(20) for plan in plans.values() if plan[0].order.id == order_id(number)]


async def book(deputy: Deputy, number: int) -> None:
    await keep(deputy, [plan(number)])
    deputy.record([AccountState(1, 2, "USD", Decimal(90), number, NOON, NOON)], [record(number)])


async def test_the_plan_of_a_booked_batch_goes_with_its_record(node: Node, deputy: Deputy) -> None:
    await book(deputy, 1)
    await book(deputy, 2)
    await keep(deputy, [plan(3)])
    assert await planned(node) == [3]
    known = await node.run(Store.account, 1)
    assert known is not None
    assert known.version == 2
    await deputy.withdraw_plan()
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
    assert [plan[0].order.id for plan in store.plans().values()] == [order_id(number) for number in (1, 2, 3)]
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
    await keep(deputy, [plan(2)])
    await planned(node)
    assert node.fenced == "the disk was full for a moment"
    await deputy.withdraw_plan()
    assert await planned(node) == [1], "it was booked, and is not recorded"


async def test_who_cannot_be_sure_that_a_plan_is_gone_is_told(
    node: Node, deputy: Deputy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keep(deputy, [plan(2)])
    failing(monkeypatch, "withdraw_plans", "the disk fails")
    with pytest.raises(StandInFenced, match="Outcome unknown"):
        await deputy.withdraw_plan()
    again, other = plan(2).order, plan(3).order
    assert [type(answer) for answer in deputy.put_off([again, other]).values()] == [CommitInDoubt]
    group = uuid4()
    assert len(deputy.put_off([replace(order, group=group) for order in (again, other)])) == 2


async def test_an_order_whose_plan_is_withdrawn_is_judged_again(node: Node, deputy: Deputy) -> None:
    await keep(deputy, [plan(2)])
    withdrawing = asyncio.create_task(deputy.withdraw_plan())
    await asyncio.sleep(0)
    assert deputy.put_off([plan(2).order])
    await withdrawing
    assert not deputy.put_off([plan(2).order])


async def test_a_plan_that_a_full_disk_did_not_take_need_not_be_withdrawn(
    node: Node, deputy: Deputy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as momentarily:
        failing(momentarily, "write_plan", "the disk is full")
        await keep(deputy, [plan(2)])
    failing(monkeypatch, "withdraw_plans", "the disk is full")
    await deputy.withdraw_plan()
    assert not deputy.put_off([plan(2).order])


@pytest.mark.parametrize("is_fenced_before", [True, False])
async def test_a_batch_in_doubt_that_the_journal_does_not_take_is_not_judged_again(
    node: Node, deputy: Deputy, monkeypatch: pytest.MonkeyPatch, is_fenced_before: bool
) -> None:
    await keep(deputy, [plan(2)])
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
    await keep(deputy, [plan(1)])
    deputy.record([AccountState(1, 2, "USD", Decimal(0), 2, NOON, NOON)], [record(1)])
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
    await keep(deputy, [plan(1), plan(2)])
    adopted = await node.run(adopt_plans)
    assert [entry.order.id for entry in adopted] == [order_id(2)]
    assert await planned(node) == []
    assert await node.run(Store.pending_count) == 1
