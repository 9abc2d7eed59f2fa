"""Orders and the transfers they book: judged under locks, then written. The same online and at settling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from aiopypay import errors
from aiopypay.database import Connection, Row, fetch
from aiopypay.ledger import Account, Currency, TransferOrder
from aiopypay.planning import PlannedOrder, changes, plan_batch, refused_groups
from aiopypay.store.accounts import AccountState
from aiopypay.store.transfers import TransferRow

# NO KEY UPDATE is what an UPDATE of the balance takes itself; unlike UPDATE it lets the foreign keys of other
# transactions' transfers pass. In id order, so that two batches cannot lock each other out.
LOCK_ACCOUNTS = """
SELECT account.id, account.user_id, account.currency_id, account.amount,
    currency.description, currency.commission, currency.decimals,
    currency.commission_account_id, currency.external_account_id
FROM accounts AS account
JOIN (
    SELECT currencies.id, description, commission, decimals,
        min(accounts.id) FILTER (WHERE accounts.id > 0) AS commission_account_id,
        min(accounts.id) FILTER (WHERE accounts.id < 0) AS external_account_id
    FROM currencies
    JOIN accounts ON accounts.currency_id = currencies.id AND (accounts.user_id = 1 OR accounts.id < 0)
    GROUP BY currencies.id
) AS currency ON currency.id = account.currency_id
WHERE account.id = ANY(%(ids)s) AND account.user_id IS NOT NULL
ORDER BY account.id
FOR NO KEY UPDATE OF account
"""

LOCK_FREE_ACCOUNTS = """
SELECT id FROM accounts WHERE id = ANY(%(ids)s) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
"""

SELECT_ORDERS = """
SELECT orders.id, orders.user_id, fingerprint, status, accepted_at, posted_at, reason, balance,
    transfers.id, kind, "timestamp", from_account_id, to_account_id, transfers.amount, comment, decimals
FROM orders
LEFT JOIN transfers ON transfers.order_id = orders.id
LEFT JOIN accounts ON accounts.id = to_account_id
LEFT JOIN currencies ON currencies.id = accounts.currency_id
WHERE orders.id = ANY(%(ids)s::uuid[])
ORDER BY transfers.id
"""

# Changes are relative: the commission and external accounts were not read. They are locked here, at last and in id
# order, the external ones behind all others: whoever holds one of those waits for no account with an owner.
INSERT_ORDERS = """
WITH booked_orders AS (
    INSERT INTO orders
        (id, user_id, idempotency_key, fingerprint, status, accepted_at, posted_at, balance)
    SELECT id, user_id, idempotency_key, fingerprint, 'posted', coalesce(accepted_at, now()), now(), balance
    FROM unnest(
        %(order_ids)s::uuid[], %(user_ids)s::bigint[], %(keys)s::text[], %(fingerprints)s::bytea[],
        %(accepted_at)s::timestamptz[], %(balances)s::numeric[]
    ) AS planned (id, user_id, idempotency_key, fingerprint, accepted_at, balance)
), booked AS (
    INSERT INTO transfers (order_id, kind, from_account_id, to_account_id, amount, comment)
    SELECT order_id, kind, from_account_id, to_account_id, amount, comment
    FROM unnest(
        %(transfer_order_ids)s::uuid[], %(kinds)s::text[], %(from_ids)s::bigint[], %(to_ids)s::bigint[],
        %(amounts)s::numeric[], %(comments)s::text[]
    ) WITH ORDINALITY AS planned (order_id, kind, from_account_id, to_account_id, amount, comment, ordinal)
    ORDER BY ordinal
    RETURNING id, "timestamp"
), locked AS (
    SELECT id FROM accounts WHERE id = ANY(%(changed_ids)s) ORDER BY id < 0, id FOR NO KEY UPDATE
), changed AS (
    UPDATE accounts SET amount = accounts.amount + change.amount
    FROM unnest(%(changed_ids)s::bigint[], %(changes)s::numeric[]) AS change (id, amount)
    JOIN locked ON locked.id = change.id
    WHERE accounts.id = change.id
    RETURNING accounts.id, user_id, currency_id, accounts.amount, version, created_at, updated_at
)
SELECT FALSE AS is_account, id, NULL AS user_id, NULL AS currency_id, NULL AS amount, NULL AS version,
    NULL AS created_at, "timestamp" AS changed_at
FROM booked
UNION ALL
SELECT TRUE, id, user_id, currency_id, amount, version, created_at, updated_at FROM changed
ORDER BY is_account, id
"""

INSERT_REFUSALS = """
INSERT INTO orders (id, user_id, idempotency_key, fingerprint, status, accepted_at, reason)
SELECT id, user_id, idempotency_key, fingerprint, 'refused', coalesce(accepted_at, now()), reason
FROM unnest(
    %(order_ids)s::uuid[], %(user_ids)s::bigint[], %(keys)s::text[], %(fingerprints)s::bytea[],
    %(accepted_at)s::timestamptz[], %(reasons)s::text[]
) AS refused (id, user_id, idempotency_key, fingerprint, accepted_at, reason)
"""

SELECT_ACCOUNTS = """
SELECT id, user_id, currency_id, amount, version, created_at, updated_at
FROM accounts WHERE id = ANY(%(ids)s)
"""

INSERT_KEYED_ORDER = """
INSERT INTO orders (id, user_id, idempotency_key, fingerprint, status, accepted_at, posted_at)
VALUES (%(id)s, %(user_id)s, %(key)s, %(fingerprint)s, 'posted', now(), now())
ON CONFLICT (id) DO NOTHING
RETURNING id
"""


@dataclass(frozen=True, slots=True)
class OrderRecord:
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

    def answers(self, fingerprint: bytes) -> "OrderRecord":
        """Returns itself, as the answer to a request of this content.

        Raises IdempotencyKeyReused for another content, OrderRefused where the order was refused at settling.
        """
        if self.fingerprint != fingerprint:
            raise errors.IdempotencyKeyReused
        if self.reason is not None:
            raise errors.OrderRefused(f"Order {self.id} was refused: {self.reason}")
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


async def judge_orders(connection: Connection, orders: Sequence[TransferOrder]) -> Judgement:
    """Locks the accounts that the orders name, looks up their ids, and asks the ledger rule. The ids differ."""
    accounts, currencies = await _lock_accounts(connection, orders)
    # A statement of its own, begun after all locks are held: an earlier one would not see an attempt that
    # committed while we waited for them.
    known = await find_orders(connection, [order.id for order in orders])
    fresh = [order for order in orders if order.id not in known]
    answered = {order.id: _replay(known[order.id], order) for order in orders if order.id in known}
    planned = plan_batch(fresh, accounts, currencies, refused=refused_groups(orders, answered))
    return Judgement(
        known=known,
        plans=[plan for plan in planned if isinstance(plan, PlannedOrder)],
        refusals={
            order.id: plan for order, plan in zip(fresh, planned, strict=True) if isinstance(plan, errors.Problem)
        },
    )


async def book_plans(
    connection: Connection, plans: Sequence[PlannedOrder]
) -> tuple[dict[UUID, OrderRecord], list[AccountState]]:
    """Writes orders and transfers and changes the balances; returns the records and the accounts as they led to.

    Raises DuplicateOrder when another transaction booked one of the ids in the meantime.
    """
    if not plans:
        return {}, []
    rows = await fetch(connection, INSERT_ORDERS, _write_parameters(plans))
    accounts = [AccountState(*row[1:]) for row in rows if row[0]]
    if len(accounts) != len(changes(plans)):
        # An account vanished between plan and write. The transaction must not be committed.
        raise errors.InternalError
    numbered = iter(rows)
    return {plan.order.id: _booked(plan, [next(numbered) for _ in plan.transfers]) for plan in plans}, accounts


async def record_refusals(connection: Connection, orders: Sequence[TransferOrder], reasons: Mapping[UUID, str]) -> None:
    """Writes the refusals of orders that had been accepted before, so that their users see them."""
    refused = [order for order in orders if order.id in reasons]
    if refused:
        parameters = {**_order_parameters(refused), "reasons": [reasons[order.id] for order in refused]}
        await fetch(connection, INSERT_REFUSALS, parameters)


async def account_states(connection: Connection, account_ids: Sequence[int]) -> list[AccountState]:
    """Returns these accounts as they are now."""
    return [AccountState(*row) for row in await fetch(connection, SELECT_ACCOUNTS, {"ids": list(account_ids)})]


async def find_orders(connection: Connection, order_ids: Sequence[UUID]) -> dict[UUID, OrderRecord]:
    """Returns the orders with these ids that have an outcome, by id."""
    rows_by_order: dict[UUID, list[Row]] = {}
    for row in await fetch(connection, SELECT_ORDERS, {"ids": list(order_ids)}):
        rows_by_order.setdefault(row[0], []).append(row)
    return {order_id: _record(rows) for order_id, rows in rows_by_order.items()}


async def claim_key(connection: Connection, order_id: UUID, user_id: int, key: str, fingerprint: bytes) -> bool:
    """Writes an order that books nothing; tells whether the id was free. Waits for a transaction that claims it too."""
    parameters = {"id": order_id, "user_id": user_id, "key": key, "fingerprint": fingerprint}
    return bool(await fetch(connection, INSERT_KEYED_ORDER, parameters))


def _named(orders: Sequence[TransferOrder]) -> list[int]:
    return sorted({account_id for order in orders for account_id in order.account_ids})


async def _lock_accounts(
    connection: Connection, orders: Sequence[TransferOrder]
) -> tuple[dict[int, Account], dict[str, Currency]]:
    rows = await fetch(connection, LOCK_ACCOUNTS, {"ids": _named(orders)})
    accounts = {row[0]: Account(*row[:4]) for row in rows}
    currencies = {row[2]: Currency(row[2], *row[4:]) for row in rows}
    return accounts, currencies


def _write_parameters(plans: Sequence[PlannedOrder]) -> dict[str, list[object]]:
    transfers = [(plan.order.id, transfer) for plan in plans for transfer in plan.transfers]
    changed = changes(plans)
    return {
        **_order_parameters([plan.order for plan in plans]),
        "balances": [plan.balance for plan in plans],
        "transfer_order_ids": [order_id for order_id, _ in transfers],
        "kinds": [transfer.kind for _, transfer in transfers],
        "from_ids": [transfer.from_account_id for _, transfer in transfers],
        "to_ids": [transfer.to_account_id for _, transfer in transfers],
        "amounts": [transfer.amount for _, transfer in transfers],
        "comments": [transfer.comment for _, transfer in transfers],
        "changed_ids": list(changed),
        "changes": list(changed.values()),
    }


def _order_parameters(orders: Sequence[TransferOrder]) -> dict[str, list[object]]:
    return {
        "order_ids": [order.id for order in orders],
        "user_ids": [order.user_id for order in orders],
        "keys": [order.idempotency_key for order in orders],
        "fingerprints": [order.fingerprint for order in orders],
        "accepted_at": [order.accepted_at for order in orders],
    }


def _booked(plan: PlannedOrder, rows: Sequence[Row]) -> OrderRecord:
    posted_at = rows[0][-1]
    transfers = tuple(
        TransferRow(
            transfer_id,
            plan.order.id,
            transfer.kind,
            timestamp,
            transfer.from_account_id,
            transfer.to_account_id,
            transfer.amount,
            transfer.comment,
            plan.decimals,
        )
        for (_, transfer_id, *_, timestamp), transfer in zip(rows, plan.transfers, strict=True)
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
    )


def _record(rows: Sequence[Row]) -> OrderRecord:
    order_id, user_id, fingerprint, status, accepted_at, posted_at, reason, balance = rows[0][:8]
    transfers = tuple(TransferRow(row[8], order_id, *row[9:]) for row in rows if row[8] is not None)
    return OrderRecord(
        order_id, user_id, bytes(fingerprint), status, accepted_at, posted_at, reason, balance, transfers
    )


def _replay(record: OrderRecord, order: TransferOrder) -> Outcome:
    try:
        return record.answers(order.fingerprint)
    except errors.Problem as problem:
        return problem
