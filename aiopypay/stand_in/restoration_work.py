"""What a restoration has done in the store's thread: lists of what is to be booked again, and what could not be."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from aiopypay.ledger import Transfer, TransferOrder
from aiopypay.stand_in.acceptance import KEYS_COMPLETE
from aiopypay.stand_in.deputy_work import FILLED
from aiopypay.stand_in.identity import identified
from aiopypay.stand_in.reading import record_of
from aiopypay.stand_in.records import Entry
from aiopypay.stand_in.store import Store
from aiopypay.store.orders import OrderRecord

SCANNED_AT_ONCE = 5000


def remembered_orders(store: Store) -> list[UUID]:
    """Returns the orders whose outcome is known, in the order of their transfers.

    Those of the journal that were settled and are not remembered any more are older than all that are. Orders without
    transfers come first: they move no money.
    """
    found: list[tuple[int, int, UUID]] = []
    position: int | None = -(2**62)
    while position is not None:
        page, position = store.orders_after(position, SCANNED_AT_ONCE)
        found += [(1, _first_transfer(record), record.id) for record in page]
    known = {order_id for *_, order_id in found}
    found += [(0, sequence, order_id) for sequence, order_id in _settled(store) if order_id not in known]
    return [order_id for *_, order_id in sorted(found)]


def records_of(store: Store, order_ids: Sequence[UUID]) -> list[OrderRecord]:
    """Returns these orders as they were answered, in this order."""
    known = store.orders(order_ids)
    entries = store.entries_of([order_id for order_id in order_ids if order_id not in known])
    known |= {order_id: record_of(entry.entry, "posted") for order_id, entry in entries.items()}
    return [known[order_id] for order_id in order_ids if order_id in known]


def highest_ids(store: Store) -> tuple[int, int, int]:
    """Returns the highest ids of a user, an account and a transfer that are known."""
    users = accounts = transfers = 0
    while page := store.users_after(users, SCANNED_AT_ONCE):
        users = page[-1].id
    while found := store.accounts_after(accounts, SCANNED_AT_ONCE):
        accounts = found[-1].id
    position: int | None = -(2**62)
    while position is not None:
        records, position = store.orders_after(position, SCANNED_AT_ONCE)
        transfers = max([transfers, *(row.id or 0 for record in records for row in record.transfers)])
    return users, accounts, transfers


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


def list_unplaced(store: Store, orders: Sequence[tuple[OrderRecord, str]], at: datetime) -> None:
    """Keeps orders that were booked once, and cannot be now, in the journal, with the reason."""
    held = store.entries_of([record.id for record, _ in orders])
    with store.transaction(durable=True):
        for record, reason in orders:
            if record.id not in held:
                store.append([_as_entry(record)])
            entry = store.entry(record.id)
            if entry is not None and entry.state in ("pending", "posted"):
                store.mark_unplaced(entry.sequence, reason, at)


def forget_everything(store: Store) -> bool:
    """Forgets some of the answers, and at last accounts and users; tells whether there is more."""
    with store.transaction(durable=True):
        store.set_setting(FILLED, "no")
        store.set_setting(KEYS_COMPLETE, "no")
        if store.forget_orders(SCANNED_AT_ONCE):
            return True
        store.forget_accounts()
        store.forget_users()
    return False


def _settled(store: Store) -> list[tuple[int, UUID]]:
    settled: list[tuple[int, UUID]] = []
    sequence = 0
    while page := store.entries("posted", SCANNED_AT_ONCE, sequence):
        sequence = page[-1].sequence
        settled += [(entry.sequence, entry.entry.order.id) for entry in page]
    return settled


def _first_transfer(record: OrderRecord) -> int:
    return min((row.id or 0 for row in record.transfers), default=0)


def order_of(record: OrderRecord) -> TransferOrder:
    """Returns the order that was answered with this record, as far as it tells."""
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
    """Returns an order that was refused, of which no more is known than that."""
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
        decimals=record.transfers[0].decimals,
    )
