"""The ledger rule over a batch: order by order in arrival order, each on the balances the one before left. Pure."""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from itertools import groupby
from operator import attrgetter
from typing import Protocol
from uuid import UUID

import msgspec
from msgspec.structs import replace

from aiopypay import money
from aiopypay.errors import GroupRefused, InsufficientFunds, InternalError, NotKnownHere, Problem
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


class Unsure(msgspec.Struct, frozen=True, gc=False):
    """What held orders bring to an account, and what they take from it; both are positive."""

    brings: Decimal = Decimal(0)
    takes: Decimal = Decimal(0)


Held = Callable[[TransferOrder], bool]
group_of = attrgetter("group")
_SURE = Unsure()

logger = logging.getLogger(__name__)


def plan_batch(
    orders: Sequence[TransferOrder],
    accounts: Mapping[int, Account],
    currencies: Mapping[str, Currency],
    check: Check | None = None,
    held: Held | None = None,
    *,
    unsure: Mapping[int, Unsure] | None = None,
    refused: Mapping[UUID, GroupRefused] | None = None,
) -> list[PlannedOrder | Problem]:
    """Returns one plan or refusal an order, in order. A refusal changes nothing for those behind it.

    `accounts` are those that the orders name. Commission and external accounts need not be among them. `check` may
    refuse what the rule lets through.

    A `held` order may have been booked before, without that one could tell. All balances that are told count it as a
    new one, in its place; but those behind it can neither spend what it brings, nor are they refused for what it
    takes: where that decides, they are NotKnownHere. `unsure` is what held orders before this batch bring to and take
    from the accounts, whose amounts are what can be spent for certain.

    The orders of a group stand next to each other. Where one is refused, so are the others (GroupRefused), and those
    behind them find everything as if the group had not been there. `refused` are groups that are so beforehand.
    """
    batch = _Batch(accounts, currencies, check, held, unsure or {})
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


class Planned(Protocol):
    """What moves money."""

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """Its transfers."""


def changes(plans: Sequence[Planned]) -> dict[int, Decimal]:
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
        unsure: Mapping[int, Unsure],
    ) -> None:
        # What can be spent for certain.
        self._current = dict(accounts)
        self._unsure = dict(unsure)
        self._currencies = currencies
        self._check = check
        self._held = held

    def plan(self, order: TransferOrder) -> PlannedOrder | Problem:
        """Returns the order's plan, and applies it; or why it is refused."""
        current = self._current
        account = current.get(order.account_id)
        currency = self._currencies.get(account.currency_id) if account else None
        try:
            transfers = self._transfers(order, currency)
            if self._check is not None:
                self._check(order, transfers)
        except Problem as refusal:
            return refusal
        except Exception:
            # A defect of ours, and this order's alone.
            logger.exception("Order %s cannot be judged", order.id)
            return InternalError()
        assert account is not None  # noqa: S101 - the rule refuses orders without one
        assert currency is not None  # noqa: S101
        with money.exact():
            moved = sum([transfer.amount for transfer in transfers])
            told = account.amount + self._unsure.get(account.id, _SURE).brings
            balance = told + moved if order.is_deposit else told - moved
            self._book(order, transfers)
        rate = currency.commission if order.commission_rate is None else order.commission_rate
        return PlannedOrder(order, transfers, balance, currency.decimals, rate)

    def plan_together(self, orders: Sequence[TransferOrder]) -> list[PlannedOrder] | list[Problem]:
        """Returns the plans of a group; or the refusal of the first that is refused, and of the others for its sake."""
        before = self._current.copy(), self._unsure.copy()
        plans: list[PlannedOrder] = []
        for order in orders:
            plan = self.plan(order)
            if isinstance(plan, Problem):
                self._current, self._unsure = before
                self._uncount(plans)
                return [plan if other is order else _with(order, plan) for other in orders]
            plans.append(plan)
        return plans

    def _uncount(self, plans: Sequence[PlannedOrder]) -> None:
        if self._check is not None:
            for plan in plans:
                self._check.undo(plan.order, plan.transfers)

    def _transfers(self, order: TransferOrder, currency: Currency | None) -> tuple[Transfer, ...]:
        """Asks the rule. Raises what it raises, and NotKnownHere where the node knows too little to ask."""
        source, target = self._current.get(order.from_account_id), self._current.get(order.to_account_id)
        if currency is None and order.account_id in self._current:
            raise NotKnownHere("The database is away, and this node does not know the currency of the account.")
        try:
            return plan_transfers(order, source, target, currency)
        except InsufficientFunds:
            unsure = self._unsure.get(order.from_account_id)
            if source is None or unsure is None:
                raise
        with money.exact():
            told = replace(source, amount=source.amount + unsure.brings)
            at_most = replace(source, amount=told.amount + unsure.takes)
        try:
            plan_transfers(order, at_most, target, currency)
        except InsufficientFunds:
            # Refused in any case; by the balance that is told.
            return plan_transfers(order, told, target, currency)
        raise NotKnownHere(
            "The database is away, and this node cannot tell whether orders were booked before that decide whether the "
            "account covers this one."
        )

    def _book(self, order: TransferOrder, transfers: Sequence[Transfer]) -> None:
        held = self._held is not None and self._held(order)
        for transfer in transfers:
            self._change(transfer.from_account_id, -transfer.amount)
            if held:
                self._hold(transfer)
            else:
                self._change(transfer.to_account_id, transfer.amount)

    def _hold(self, transfer: Transfer) -> None:
        source, target = transfer.from_account_id, transfer.to_account_id
        taken, brought = self._unsure.get(source, _SURE), self._unsure.get(target, _SURE)
        self._unsure[source] = replace(taken, takes=taken.takes + transfer.amount)
        self._unsure[target] = replace(brought, brings=brought.brings + transfer.amount)

    def _change(self, account_id: int, change: Decimal) -> None:
        account = self._current.get(account_id)
        if account is not None:
            self._current[account_id] = replace(account, amount=account.amount + change)


def _with(order: TransferOrder, refusal: Problem) -> GroupRefused:
    """Returns the refusal of orders that were sent with this one, which is refused."""
    why = f"{refusal.title}: {refusal.detail}"
    return GroupRefused(f"Order {order.id}, which was sent with this one, was refused: {why}")
