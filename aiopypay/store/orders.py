"""Orders and the transfers they book: judged under locks, then written. The same online and at settling."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import msgspec

from aiopypay import errors
from aiopypay.ledger import Account, Currency, TransferOrder
from aiopypay.planning import PlannedOrder, changes, plan_batch, refused_groups
from aiopypay.statements import Connection, Row, fetch
from aiopypay.store.accounts import AccountState
from aiopypay.store.keys import used_by_bulks
from aiopypay.store.moments import Moment, Step
from aiopypay.store.order_statements import (
    INSERT_KEYED_ORDER,
    INSERT_ORDERS,
    INSERT_REFUSALS,
    LOCK_ACCOUNTS,
    LOCK_FREE_ACCOUNTS,
    SELECT_ACCOUNTS,
    SELECT_ORDERS,
)
from aiopypay.store.transfers import TransferRow
from aiopypay.units import places_of_bulks


class OrderRecord(msgspec.Struct, frozen=True, gc=False):
    """An order with a certain outcome. `balance` is the one right after it of the account that its receipt is about."""

    id: UUID
    user_id: int
    fingerprint: bytes
    status: str
    accepted_at: datetime
    posted_at: datetime | None
    reason: str | None
    balance: Decimal | None
    transfers: tuple[TransferRow, ...]
    idempotency_key: str | None = None

    def answers(self, fingerprint: bytes) -> "OrderRecord":
        """Returns itself, as the answer to a request of this content.

        Raises IdempotencyKeyReused for another content, OrderRefused where the order was refused at settling.
        """
        if self.fingerprint != fingerprint:
            raise errors.IdempotencyKeyReused
        if self.reason is not None:
            raise errors.OrderRefused(self.id, self.user_id, self.reason)
        return self


Outcome = OrderRecord | errors.Problem
Outcomes = dict[UUID, Outcome]


@dataclass(frozen=True, slots=True)
class Judgement:
    """A batch under locks: what was known before, and what the rule says of the rest."""

    known: Mapping[UUID, OrderRecord]
    plans: Sequence[PlannedOrder]
    refusals: Mapping[UUID, errors.Problem]

    def replays(self, orders: Sequence[TransferOrder]) -> Outcomes:
        """Returns the outcomes that need no booking: refusals, and answers given before."""
        return {
            order.id: self.refusals[order.id] if order.id in self.refusals else _replay(self.known[order.id], order)
            for order in orders
            if order.id in self.refusals or order.id in self.known
        }


async def lockable_accounts(connection: Connection, orders: Sequence[TransferOrder]) -> set[int]:
    """Returns which of the accounts that the orders name nobody else holds locked at this moment."""
    return {row[0] for row in await fetch(connection, LOCK_FREE_ACCOUNTS, {"ids": _named(orders)})}


async def judge_orders(
    connection: Connection, orders: Sequence[TransferOrder], step: Step, *, minted: bool = False
) -> Judgement:
    """Locks the accounts that the orders name, looks up their ids, and asks the ledger rule. The ids differ.

    `minted`: orders without an Idempotency-Key have ids made for this very attempt, which need not be looked up.
    Raises OtherMoment.
    """
    accounts, currencies = await lock_accounts(connection, _named(orders), step)
    # A statement of its own, begun after all locks are held: an earlier one would not see an attempt that
    # committed while we waited for them.
    sought = [order for order in orders if not minted or order.idempotency_key is not None]
    # Not those of entries of the journal: whether a key is a bulk's was judged when they were accepted.
    places = places_of_bulks(sought) if minted else {}
    known = await find_orders(connection, [order.id for order in sought], places.values()) if sought else {}
    refusals: dict[UUID, errors.Problem] = {
        order_id: errors.IdempotencyKeyReused() for order_id in used_by_bulks(sought, places, known)
    }
    answered: Outcomes = {order.id: _replay(known[order.id], order) for order in orders if order.id in known}
    answered |= refusals
    fresh = [order for order in orders if order.id not in answered]
    planned = plan_batch(fresh, accounts, currencies, refused=refused_groups(orders, answered))
    refusals |= {order.id: plan for order, plan in zip(fresh, planned, strict=True) if isinstance(plan, errors.Problem)}
    return Judgement(known, [plan for plan in planned if isinstance(plan, PlannedOrder)], refusals)


async def lock_accounts(
    connection: Connection, account_ids: Collection[int], step: Step
) -> tuple[dict[int, Account], dict[str, Currency]]:
    """Locks the node's moment and those of the accounts that have an owner; returns them and their currencies.

    Raises OtherMoment.
    """
    rows = await fetch(connection, LOCK_ACCOUNTS, {"ids": _array(sorted(account_ids)), "node_id": step.node_id})
    step.check(Moment(*rows[0][:2]) if rows else None)
    found = [row[2:] for row in rows if row[2] is not None]
    accounts = {row[0]: Account(*row[:4]) for row in found}
    currencies = {row[2]: Currency(row[2], *row[4:]) for row in found}
    return accounts, currencies


async def book_plans(
    connection: Connection, plans: Sequence[PlannedOrder], step: Step
) -> tuple[dict[UUID, OrderRecord], list[AccountState]]:
    """Writes orders, transfers and the step's moment, changes the balances; returns the records and the accounts then.

    Raises DuplicateOrder when another transaction booked one of the ids in the meantime.
    """
    if not plans:
        return {}, []
    changed = changes(plans)
    rows = await fetch(connection, INSERT_ORDERS, _write_parameters(plans, changed) | _moment_parameters(step))
    [(*_, posted_at, transfer_ids)] = [row for row in rows if row[0] is None]
    accounts = [AccountState(*row[:-1]) for row in rows if row[0] is not None]
    if len(accounts) != len(changed):
        # An account vanished between plan and write. The transaction must not be committed.
        raise errors.InternalError
    numbered = iter(transfer_ids)
    return {plan.order.id: _booked(plan, numbered, posted_at) for plan in plans}, accounts


async def record_refusals(connection: Connection, orders: Sequence[TransferOrder], reasons: Mapping[UUID, str]) -> None:
    """Writes the refusals of orders that had been accepted before, so that their users see them."""
    refused = [order for order in orders if order.id in reasons]
    if refused:
        parameters = {**_order_parameters(refused), "reasons": [reasons[order.id] for order in refused]}
        await fetch(connection, INSERT_REFUSALS, parameters)


async def account_states(connection: Connection, account_ids: Sequence[int]) -> list[AccountState]:
    """Returns these accounts as they are now."""
    return [AccountState(*row) for row in await fetch(connection, SELECT_ACCOUNTS, {"ids": list(account_ids)})]


async def find_orders(
    connection: Connection, order_ids: Sequence[UUID], places: Collection[tuple[UUID, UUID]] = ()
) -> dict[UUID, OrderRecord]:
    """Returns the orders with these ids that have an outcome, by id; and of those between two `places` the first."""
    parameters = {
        "ids": _array(order_id.hex for order_id in order_ids),
        "lowest": _array(lowest.hex for lowest, _ in places),
        "highest": _array(highest.hex for _, highest in places),
    }
    rows_by_order: dict[UUID, list[Row]] = {}
    for row in await fetch(connection, SELECT_ORDERS, parameters):
        rows_by_order.setdefault(row[0], []).append(row)
    return {order_id: _record(rows) for order_id, rows in rows_by_order.items()}


async def claim_key(connection: Connection, order_id: UUID, user_id: int, key: str, fingerprint: bytes) -> bool:
    """Writes an order that books nothing; tells whether the id was free. Waits for a transaction that claims it too."""
    parameters = {"id": order_id, "user_id": user_id, "key": key, "fingerprint": fingerprint}
    return bool(await fetch(connection, INSERT_KEYED_ORDER, parameters))


def _named(orders: Sequence[TransferOrder]) -> list[int]:
    return sorted({account_id for order in orders for account_id in order.account_ids})


def _moment_parameters(step: Step) -> dict[str, object]:
    count, token = (None, None) if step.to is None else (step.to.count, step.to.token)
    return {"node_id": step.node_id, "moment_count": count, "moment_token": token}


def _write_parameters(plans: Sequence[PlannedOrder], changed: Mapping[int, Decimal]) -> dict[str, object]:
    transfers = [transfer for plan in plans for transfer in plan.transfers]
    return {
        **_order_parameters([plan.order for plan in plans]),
        "balances": _array(plan.balance for plan in plans),
        "places": _array(place for place, plan in enumerate(plans, start=1) for _ in plan.transfers),
        "kinds": _array(transfer.kind for transfer in transfers),
        "from_ids": _array(transfer.from_account_id for transfer in transfers),
        "to_ids": _array(transfer.to_account_id for transfer in transfers),
        "amounts": _array(transfer.amount for transfer in transfers),
        "comments": [transfer.comment for transfer in transfers],
        "changed_ids": _array(changed),
        "changes": _array(changed.values()),
    }


def _order_parameters(orders: Sequence[TransferOrder]) -> dict[str, object]:
    return {
        "order_ids": _array(order.id.hex for order in orders),
        "user_ids": _array(order.user_id for order in orders),
        "keys": [order.idempotency_key for order in orders],
        "fingerprints": [order.fingerprint for order in orders],
        "accepted_at": [order.accepted_at for order in orders],
    }


def _array(values: Iterable[object]) -> str:
    """Returns a PostgreSQL array of numbers and plain words. The driver writes such a list value by value, slowly."""
    return f"{{{','.join(map(str, values))}}}"


def _booked(plan: PlannedOrder, transfer_ids: Iterator[int], posted_at: datetime) -> OrderRecord:
    transfers = tuple(
        TransferRow(
            next(transfer_ids),
            plan.order.id,
            transfer.kind,
            posted_at,
            transfer.from_account_id,
            transfer.to_account_id,
            transfer.amount,
            transfer.comment,
            plan.decimals,
        )
        for transfer in plan.transfers
    )
    return OrderRecord(
        plan.order.id,
        plan.order.user_id,
        plan.order.fingerprint,
        "posted",
        plan.order.accepted_at or posted_at,
        posted_at,
        None,
        plan.balance,
        transfers,
        plan.order.idempotency_key,
    )


def _record(rows: Sequence[Row]) -> OrderRecord:
    order_id, user_id, fingerprint, status, accepted_at, posted_at, reason, balance, key = rows[0][:9]
    transfers = tuple(TransferRow(row[9], order_id, *row[10:]) for row in rows if row[9] is not None)
    return OrderRecord(
        order_id, user_id, bytes(fingerprint), status, accepted_at, posted_at, reason, balance, transfers, key
    )


def _replay(record: OrderRecord, order: TransferOrder) -> Outcome:
    try:
        return record.answers(order.fingerprint)
    except errors.Problem as problem:
        return problem
