"""The ledger rule over a batch: order by order in arrival order, each on the balances the one before left. Pure."""

import copy
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from itertools import groupby
from operator import attrgetter
from typing import Protocol
from uuid import UUID

import msgspec
from msgspec.structs import replace

from aiopypay import money
from aiopypay.errors import GroupRefused, Problem
from aiopypay.ledger import Account, Currency, Transfer, TransferOrder, plan_transfers


class PlannedOrder(msgspec.Struct, frozen=True, gc=False):
    """An order that the rule lets through.

    `balance` is the one afterwards of the account that the receipt is about; `decimals` its currency's;
    `commission_rate` the one it was judged by.
    """

    order: TransferOrder
    transfers: tuple[Transfer, ...]
    balance: Decimal
    decimals: int
    commission_rate: Decimal


class Check(Protocol):
    """What may refuse an order that the rule lets through."""

    def __call__(self, order: TransferOrder, transfers: Sequence[Transfer]) -> None:
        """Counts the order, or raises a Problem."""

    def undo(self, order: TransferOrder, transfers: Sequence[Transfer]) -> None:
        """Takes an order out of the count again."""


Held = Callable[[TransferOrder], bool]
group_of = attrgetter("group")


def plan_batch(
    orders: Sequence[TransferOrder],
    accounts: Mapping[int, Account],
    currencies: Mapping[str, Currency],
    check: Check | None = None,
    held: Held | None = None,
    *,
    refused: Mapping[UUID, GroupRefused] | None = None,
) -> list[PlannedOrder | Problem]:
    """Returns one plan or refusal an order, in order. A refusal changes nothing for those behind it.

    `accounts` are those that the orders name. Commission and external accounts need not be among them. `check` may
    refuse what the rule lets through. What a `held` order brings cannot be spent by those behind it.

    The orders of a group stand next to each other. Where one is refused, so are the others (GroupRefused), and those
    behind them find everything as if the group had not been there. `refused` are groups that are so beforehand.
    """
    batch = _Batch(accounts, currencies, check, held)
    planned: list[PlannedOrder | Problem] = []
    for group, members in groupby(orders, key=group_of):
        if group is None:
            planned += map(batch.plan, members)
        elif refused and group in refused:
            planned += [copy.copy(refused[group]) for _ in members]
        else:
            planned += batch.plan_together(list(members))
    return planned


def refused_groups(orders: Sequence[TransferOrder], answers: Mapping[UUID, object]) -> dict[UUID, GroupRefused]:
    """Returns the groups of which an order was answered with a problem before, by id: then the others are refused."""
    refused: dict[UUID, GroupRefused] = {}
    for order in orders:
        answer = answers.get(order.id)
        if order.group is not None and isinstance(answer, Problem):
            refused.setdefault(order.group, _with(order, answer))
    return refused


def changes(plans: Sequence[PlannedOrder]) -> dict[int, Decimal]:
    """Returns by how much each account's balance changes, by account id in ascending order."""
    sums: dict[int, Decimal] = {}
    with money.exact():
        for plan in plans:
            for transfer in plan.transfers:
                sums[transfer.from_account_id] = sums.get(transfer.from_account_id, Decimal(0)) - transfer.amount
                sums[transfer.to_account_id] = sums.get(transfer.to_account_id, Decimal(0)) + transfer.amount
    return dict(sorted(sums.items()))


class _Batch:
    """The accounts as the orders planned so far leave them."""

    def __init__(
        self,
        accounts: Mapping[int, Account],
        currencies: Mapping[str, Currency],
        check: Check | None,
        held: Held | None,
    ) -> None:
        self._current = dict(accounts)
        self._currencies = currencies
        self._check = check
        self._held = held

    def plan(self, order: TransferOrder) -> PlannedOrder | Problem:
        """Returns the order's plan, and applies it; or why it is refused."""
        current = self._current
        account = current.get(order.account_id)
        currency = self._currencies[account.currency_id] if account else None
        try:
            transfers = plan_transfers(
                order, current.get(order.from_account_id), current.get(order.to_account_id), currency
            )
            if self._check is not None:
                self._check(order, transfers)
        except Problem as refusal:
            return refusal
        assert account is not None  # noqa: S101 - the rule refuses orders without one
        assert currency is not None  # noqa: S101
        with money.exact():
            moved = sum([transfer.amount for transfer in transfers])
            balance = account.amount + moved if order.is_deposit else account.amount - moved
            self._book(order, transfers)
        rate = currency.commission if order.commission_rate is None else order.commission_rate
        return PlannedOrder(order, transfers, balance, currency.decimals, rate)

    def plan_together(self, orders: Sequence[TransferOrder]) -> list[PlannedOrder] | list[Problem]:
        """Returns the plans of a group; or the refusal of the first that is refused, and of the others for its sake."""
        before = self._current.copy()
        plans: list[PlannedOrder] = []
        for order in orders:
            plan = self.plan(order)
            if isinstance(plan, Problem):
                self._current = before
                self._uncount(plans)
                return [plan if other is order else _with(order, plan) for other in orders]
            plans.append(plan)
        return plans

    def _uncount(self, plans: Sequence[PlannedOrder]) -> None:
        if self._check is not None:
            for plan in plans:
                self._check.undo(plan.order, plan.transfers)

    def _book(self, order: TransferOrder, transfers: Sequence[Transfer]) -> None:
        credit = self._held is None or not self._held(order)
        for transfer in transfers:
            self._change(transfer.from_account_id, -transfer.amount)
            if credit:
                self._change(transfer.to_account_id, transfer.amount)

    def _change(self, account_id: int, change: Decimal) -> None:
        account = self._current.get(account_id)
        if account is not None:
            self._current[account_id] = replace(account, amount=account.amount + change)


def _with(order: TransferOrder, refusal: Problem) -> GroupRefused:
    """Returns the refusal of orders that were sent with this one, which is refused."""
    why = f"{refusal.title}: {refusal.detail}"
    return GroupRefused(f"Order {order.id}, which was sent with this one, was refused: {why}")
