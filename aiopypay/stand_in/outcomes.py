"""What became of a batch of the journal, and how the node notes it: so that what it tells does not jump.

While an entry is pending, PostgreSQL's balances are not believed for the accounts that it changes: they may hold it
already (a batch in doubt, or one of settling whose COMMIT was not answered), and it would be counted twice. Such an
account goes on from what is remembered: what is booked moves from what is pending into the remembered amount. With
its last pending entry PostgreSQL's balance is taken; so when the journal is empty, all are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from aiopypay.errors import IdempotencyKeyReused, OrderRefused
from aiopypay.ledger import TransferOrder
from aiopypay.planning import changes
from aiopypay.stand_in.records import Entry, JournalEntry
from aiopypay.stand_in.store import Store
from aiopypay.store.accounts import AccountState
from aiopypay.store.orders import OrderRecord


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a batch of the journal; `accounts` are those that it touches, as PostgreSQL has them now."""

    posted: Mapping[UUID, OrderRecord] = field(default_factory=dict)
    refused: Mapping[UUID, str] = field(default_factory=dict)
    records: Sequence[OrderRecord] = ()
    accounts: Sequence[AccountState] = ()


def known_outcomes(
    orders: Sequence[TransferOrder], known: Mapping[UUID, OrderRecord]
) -> tuple[dict[UUID, OrderRecord], dict[UUID, str]]:
    """Returns those of the orders that were booked before, and why those were refused that were."""
    posted, refused = {}, {}
    for order in orders:
        if order.id in known:
            try:
                posted[order.id] = known[order.id].answers(order.fingerprint)
            except OrderRefused:
                refused[order.id] = known[order.id].reason or ""
            except IdempotencyKeyReused as reused:
                refused[order.id] = reused.detail
    return posted, refused


def mark(store: Store, entries: Sequence[JournalEntry], settled: Settled, at: datetime) -> None:
    """Notes the outcomes after they are durable in PostgreSQL.

    Not synced: what a loss of power takes is found again in PostgreSQL, under its ids.
    """
    with store.transaction(durable=False):
        booked = store.mark_posted([entry.sequence for entry in entries if entry.entry.order.id in settled.posted], at)
        for entry in entries:
            if entry.entry.order.id in settled.refused:
                store.mark_refused(entry.sequence, settled.refused[entry.entry.order.id], at)
        news = [entry for entry in booked if _is_new(entry, settled.posted[entry.order.id])]
        store.change_amounts(changes(news))
        store.remember_accounts([account for account in settled.accounts if not store.touches(account.id)])
        store.remember_orders(settled.records)


def _is_new(entry: Entry, record: OrderRecord) -> bool:
    """Tells whether the remembered amounts lack what was booked.

    So it is with what was booked by this entry, which left the moment of its acceptance in the record, and with a batch
    in doubt. What was booked before the entry came (it was held then, for that could not be told) they have already.
    """
    return entry.in_doubt or record.accepted_at == entry.order.accepted_at
