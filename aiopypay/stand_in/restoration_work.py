"""What a restoration reads and notes in the node's store: what is to be booked again, and what could not be."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from aiopypay.ledger import Transfer, TransferOrder
from aiopypay.stand_in.identity import identified
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.reading import record_of
from aiopypay.stand_in.records import Entry
from aiopypay.stand_in.store import Store
from aiopypay.store.orders import OrderRecord

SCANNED_AT_ONCE = 2000
FIRST_POSITION = -(2**62)


async def remembered_orders(node: Node) -> list[tuple[int, int, UUID]]:
    """Returns the orders whose outcome is known, in the order of their transfers, behind what they are sorted by.

    Those of the journal that were settled and are not remembered any more are older than all that are. Orders without
    transfers come first: they move no money. Page by page, so that the disk is seen to answer.
    """
    found: list[tuple[int, int, UUID]] = []
    position: int | None = FIRST_POSITION
    while position is not None:
        page, position = await node.finish(_orders_after, position)
        found += page
    known = {order_id for *_, order_id in found}
    sequence: int | None = 0
    while sequence is not None:
        settled, sequence = await node.finish(_settled_after, sequence)
        found += [(0, number, order_id) for number, order_id in settled if order_id not in known]
    return sorted(found)


async def highest_ids(node: Node) -> tuple[int, int]:
    """Returns the highest ids of a user and of an account that are known."""
    users = accounts = 0
    while page := await node.finish(Store.users_after, users, SCANNED_AT_ONCE):
        users = page[-1].id
    while found := await node.finish(Store.accounts_after, accounts, SCANNED_AT_ONCE):
        accounts = found[-1].id
    return users, accounts


def records_of(store: Store, order_ids: Sequence[UUID]) -> list[OrderRecord]:
    """Returns these orders as they were answered, in this order."""
    known = store.orders(order_ids)
    entries = store.entries_of([order_id for order_id in order_ids if order_id not in known])
    known |= {order_id: record_of(entry.entry, "posted") for order_id, entry in entries.items()}
    return [known[order_id] for order_id in order_ids if order_id in known]


def pending_after(store: Store, sequence: int, limit: int) -> list[tuple[int, Entry]]:
    """Returns the next entries that are to be settled, with whom and what they name as far as memory can tell."""
    found = store.entries("pending", limit, sequence)
    entries = identified(store, [one.entry for one in found])
    # What an entry says itself is from when it was accepted.
    return [
        (one.sequence, entry if one.entry.identities is None else one.entry)
        for one, entry in zip(found, entries, strict=True)
    ]


def mark_unplaced(store: Store, reasons: Mapping[int, str], at: datetime) -> None:
    """Gives entries of the journal the outcome that they cannot be booked, by their sequence."""
    with store.transaction(durable=True):
        for sequence, reason in reasons.items():
            store.mark_unplaced(sequence, reason, at)


def note_outcomes(
    store: Store, booked: Sequence[OrderRecord], unplaced: Sequence[tuple[OrderRecord, str]], at: datetime
) -> None:
    """Remembers orders as the database has them; those that cannot be booked are listed, with the reason, instead."""
    held = store.entries_of([record.id for record, _ in unplaced])
    with store.transaction(durable=True):
        store.remember_orders(booked)
        store.forget_orders_of([record.id for record, _ in unplaced])
        for record, reason in unplaced:
            if record.id not in held:
                store.append([_as_entry(record)])
            entry = store.entry(record.id)
            if entry is not None and entry.state in ("pending", "posted"):
                store.mark_unplaced(entry.sequence, reason, at)


def _orders_after(store: Store, position: int) -> tuple[list[tuple[int, int, UUID]], int | None]:
    page, last = store.orders_after(position, SCANNED_AT_ONCE)
    return [(1, _first_transfer(record), record.id) for record in page], last


def _settled_after(store: Store, sequence: int) -> tuple[list[tuple[int, UUID]], int | None]:
    page = store.entries("posted", SCANNED_AT_ONCE, sequence)
    return [(entry.sequence, entry.entry.order.id) for entry in page], page[-1].sequence if page else None


def _first_transfer(record: OrderRecord) -> int:
    return min((row.id or 0 for row in record.transfers), default=0)


def order_of(record: OrderRecord) -> TransferOrder:
    """Returns the order that was answered with this record, as far as it tells."""
    if not record.transfers:
        return refused_order(record)
    first = record.transfers[0]
    return TransferOrder(
        id=record.id,
        user_id=record.user_id,
        from_account_id=first.from_account_id,
        to_account_id=first.to_account_id,
        amount=first.amount,
        comment=first.comment,
        fingerprint=record.fingerprint,
        idempotency_key=record.idempotency_key,
        accepted_at=record.accepted_at,
    )


def refused_order(record: OrderRecord) -> TransferOrder:
    """Returns an order without transfers: one that was refused, or has opened an account. No more is known of it."""
    return TransferOrder(
        id=record.id,
        user_id=record.user_id,
        from_account_id=0,
        to_account_id=0,
        amount=Decimal(0),
        comment=None,
        fingerprint=record.fingerprint,
        idempotency_key=record.idempotency_key,
        accepted_at=record.accepted_at,
    )


def transfers_of(record: OrderRecord) -> tuple[Transfer, ...]:
    """Returns what is to move."""
    return tuple(
        Transfer(row.kind, row.from_account_id, row.to_account_id, row.amount, row.comment)  # type: ignore[arg-type]
        for row in record.transfers
    )


def _as_entry(record: OrderRecord) -> Entry:
    return Entry(
        order=order_of(record),
        transfers=transfers_of(record),
        balance=record.balance or Decimal(0),
        decimals=record.transfers[0].decimals if record.transfers else 0,
    )
