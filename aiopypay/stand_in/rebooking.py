"""Orders that were booked once, booked again as they were: the same ids, transfers and keys, in the same order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Self
from uuid import UUID

from aiopypay import money
from aiopypay.ledger import Account
from aiopypay.planning import PlannedOrder
from aiopypay.stand_in.restoration_work import order_of, refused_order, transfers_of
from aiopypay.stand_in.restored import Recognised
from aiopypay.statements import Connection
from aiopypay.store.moments import Step
from aiopypay.store.orders import OrderRecord, book_plans, claim_key, lock_accounts, record_refusals
from aiopypay.store.recreation import mark_opened
from aiopypay.store.users import book_opening

NOT_COVERED = "account {} holds {} here, and {} were booked"
NO_RATE = Decimal(0)


@dataclass(frozen=True, slots=True)
class Missing:
    """Orders that the database lacks; and those of them that name somebody or something else there."""

    orders: Sequence[OrderRecord]
    unplaced: Sequence[tuple[OrderRecord, str]]


@dataclass(slots=True)
class Rebooked:
    """How many orders were booked, what of them is to be remembered, and which could not be."""

    booked: int = 0
    records: list[OrderRecord] = field(default_factory=list)
    unplaced: list[tuple[OrderRecord, str]] = field(default_factory=list)

    @classmethod
    def all_of(cls, missing: Missing) -> Self:
        """What a preview can tell."""
        return cls(len(missing.orders))


def missing_orders(
    records: Sequence[OrderRecord], found: Mapping[UUID, OrderRecord], recognised: Recognised
) -> Missing:
    """Tells what is to be booked again, and what cannot be."""
    orders, unplaced = [], []
    for record in records:
        there = found.get(record.id)
        if there is not None and (there.user_id, there.fingerprint) != (record.user_id, record.fingerprint):
            unplaced.append((record, "another order has its id in this database"))
        elif there is None:
            reason = recognised.lacks(record.user_id, _named(record))
            if reason is None:
                orders.append(record)
            else:
                unplaced.append((record, reason))
    return Missing(orders, unplaced)


async def rebook(connection: Connection, missing: Missing, step: Step) -> Rebooked:
    """Books them in their order. What is not covered without those that cannot be is left out."""
    named = {
        i for record in missing.orders for row in record.transfers for i in (row.from_account_id, row.to_account_id)
    }
    accounts, _ = await lock_accounts(connection, {account_id for account_id in named if account_id > 0}, step)
    balances = _Balances(accounts)
    plans: list[PlannedOrder] = []
    rebooked = Rebooked()
    for record in missing.orders:
        if not record.transfers or record.transfers[0].kind == "opening":
            await _reopen(connection, record, balances, accounts)
        elif (reason := balances.book(record)) is not None:
            rebooked.unplaced.append((record, reason))
            continue
        else:
            plans.append(_plan(record, balances))
        rebooked.booked += 1
    records, _ = await book_plans(connection, plans, step)
    rebooked.records = list(records.values())
    return rebooked


class _Balances:
    """The balances as the orders so far leave them. External accounts may hold anything."""

    def __init__(self, accounts: Mapping[int, Account]) -> None:
        self._amounts = {account.id: account.amount for account in accounts.values()}

    def book(self, record: OrderRecord) -> str | None:
        """Applies an order, or returns why it is not covered."""
        before = dict(self._amounts)
        with money.exact():
            for row in record.transfers:
                if row.from_account_id > 0 and self.of(row.from_account_id) < row.amount:
                    held, self._amounts = self.of(row.from_account_id), before
                    return NOT_COVERED.format(row.from_account_id, held, row.amount)
                self._amounts[row.from_account_id] = self.of(row.from_account_id) - row.amount
                self._amounts[row.to_account_id] = self.of(row.to_account_id) + row.amount
        return None

    def of(self, account_id: int) -> Decimal:
        """Returns what an account holds by now."""
        return self._amounts.get(account_id, Decimal(0))


def _plan(record: OrderRecord, balances: _Balances) -> PlannedOrder:
    order = order_of(record)
    return PlannedOrder(
        order, transfers_of(record), balances.of(order.account_id), record.transfers[0].decimals, NO_RATE
    )


async def _reopen(
    connection: Connection, record: OrderRecord, balances: _Balances, accounts: Mapping[int, Account]
) -> None:
    """What opened accounts, under a key or with a credit; or an order that was refused."""
    if record.transfers:
        balances.book(record)
        credited = [
            (row.to_account_id, accounts[row.to_account_id].currency_id, row.amount) for row in record.transfers
        ]
        await book_opening(connection, record.user_id, record.id, credited)
    elif record.reason is not None:
        await record_refusals(connection, [refused_order(record)], {record.id: record.reason})
    elif record.idempotency_key is not None and record.posted_at is not None:
        await claim_key(connection, record.id, record.user_id, record.idempotency_key, record.fingerprint)
        await mark_opened(connection, record.id, record.user_id, record.posted_at)


def _named(record: OrderRecord) -> set[int]:
    return {account_id for row in record.transfers for account_id in (row.from_account_id, row.to_account_id)}
