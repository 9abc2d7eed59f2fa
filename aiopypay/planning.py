"""The ledger rule over a batch: order by order in arrival order, each on the balances the one before left. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from aiopypay import money
from aiopypay.errors import Problem
from aiopypay.ledger import Account, Currency, Transfer, TransferOrder, plan_transfers


@dataclass(frozen=True, slots=True)
class PlannedOrder:
    """An order that the rule lets through.

    `balance` is the one afterwards of the account that the receipt is about; `decimals` its currency's;
    `commission_rate` the one it was judged by.
    """

    order: TransferOrder
    transfers: tuple[Transfer, ...]
    balance: Decimal
    decimals: int
    commission_rate: Decimal


Check = Callable[[TransferOrder, Sequence[Transfer]], None]


def plan_batch(
    orders: Sequence[TransferOrder],
    accounts: Mapping[int, Account],
    currencies: Mapping[str, Currency],
    check: Check | None = None,
    held: Callable[[TransferOrder], bool] | None = None,
) -> list[PlannedOrder | Problem]:
    """Returns one plan or refusal an order, in order. A refusal changes nothing for those behind it.

    `accounts` are those that the orders name. Commission and external accounts need not be among them. `check` may
    refuse, by raising a Problem, what the rule lets through. What a `held` order brings cannot be spent by those
    behind it.
    """
    current = dict(accounts)
    planned = []
    for order in orders:
        plan = _plan(order, current, currencies, check)
        if isinstance(plan, PlannedOrder):
            _book(current, plan, credit=held is None or not held(order))
        planned.append(plan)
    return planned


def changes(plans: Sequence[PlannedOrder]) -> dict[int, Decimal]:
    """Returns by how much each account's balance changes, by account id in ascending order."""
    sums: dict[int, Decimal] = {}
    with money.exact():
        for plan in plans:
            for transfer in plan.transfers:
                sums[transfer.from_account_id] = sums.get(transfer.from_account_id, Decimal(0)) - transfer.amount
                sums[transfer.to_account_id] = sums.get(transfer.to_account_id, Decimal(0)) + transfer.amount
    return dict(sorted(sums.items()))


def _plan(
    order: TransferOrder, current: dict[int, Account], currencies: Mapping[str, Currency], check: Check | None
) -> PlannedOrder | Problem:
    source, target = current.get(order.from_account_id), current.get(order.to_account_id)
    account = current.get(order.account_id)
    currency = currencies[account.currency_id] if account else None
    try:
        transfers = plan_transfers(order, source, target, currency)
        if check is not None:
            check(order, transfers)
    except Problem as refusal:
        return refusal
    assert currency is not None  # noqa: S101 - the rule refuses orders without one
    assert account is not None  # noqa: S101
    with money.exact():
        moved = sum((transfer.amount for transfer in transfers), Decimal(0))
        balance = account.amount + moved if order.is_deposit else account.amount - moved
    rate = currency.commission if order.commission_rate is None else order.commission_rate
    return PlannedOrder(order, transfers, balance, currency.decimals, rate)


def _book(current: dict[int, Account], plan: PlannedOrder, *, credit: bool) -> None:
    with money.exact():
        for transfer in plan.transfers:
            _change(current, transfer.from_account_id, -transfer.amount)
            if credit:
                _change(current, transfer.to_account_id, transfer.amount)


def _change(current: dict[int, Account], account_id: int, change: Decimal) -> None:
    account = current.get(account_id)
    if account is not None:
        current[account_id] = replace(account, amount=account.amount + change)
