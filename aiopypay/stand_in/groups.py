"""What of the journal is settled together: a group is booked in one transaction, or refused as one."""

from collections.abc import Mapping, Sequence
from itertools import groupby, takewhile
from uuid import UUID

from aiopypay.stand_in.records import JournalEntry
from aiopypay.stand_in.store import Store
from aiopypay.store.orders import OrderRecord
from aiopypay.units import UNIT_SIZE_MAX


def oldest_batch(store: Store, size: int) -> list[JournalEntry]:
    """Returns the oldest entries without an outcome: at most `size`, no part of a group; or one group, if larger."""
    entries = store.pending(size + 1)
    if len(entries) <= size:
        return entries
    *batch, following = entries
    group = following.entry.order.group
    if group is None or group != batch[-1].entry.order.group:
        return batch
    before = [entry for entry in batch if entry.entry.order.group != group]
    return before or [entry for entry in store.pending(UNIT_SIZE_MAX) if entry.entry.order.group == group]


def doubts_beyond(store: Store, batch: Sequence[JournalEntry]) -> list[JournalEntry]:
    """Returns all entries in doubt where the oldest batch does not hold them all; else none.

    Such entries come before all others that are pending. They are adopted from plans, which are made online only, when
    nothing is pending; and they are adopted before anything else is accepted: under the writer's lock when the
    database is lost, or at the next start. Where that fails, nothing is accepted: the node is fenced until it starts.
    """
    if not batch or not batch[-1].entry.in_doubt:
        return []
    doubts: list[JournalEntry] = []
    while page := store.entries("pending", UNIT_SIZE_MAX, doubts[-1].sequence if doubts else 0):
        in_doubt = list(takewhile(lambda entry: entry.entry.in_doubt, page))
        doubts += in_doubt
        if len(in_doubt) < len(page):
            break
    return doubts if len(doubts) > len(batch) else []


def pending_of(store: Store, sequences: Sequence[int]) -> list[JournalEntry]:
    """Returns those of the entries, which stand next to each other, that have no outcome."""
    found = store.entries("pending", len(sequences), sequences[0] - 1)
    return [entry for entry in found if entry.sequence in sequences]


def by_group(entries: Sequence[JournalEntry]) -> list[list[JournalEntry]]:
    """Returns what is booked together or not at all: groups, and entries that have none, each by itself."""
    return [
        part
        for group, members in groupby(entries, key=_group_of)
        for part in ([list(members)] if group is not None else [[entry] for entry in members])
    ]


def _group_of(entry: JournalEntry) -> UUID | None:
    return entry.entry.order.group


def known_whole(entries: Sequence[JournalEntry], known: Mapping[UUID, OrderRecord]) -> dict[UUID, OrderRecord]:
    """Returns what is known of the entries, but not of groups of which not all is: these are judged as one."""
    ids = [[entry.entry.order.id for entry in together] for together in by_group(entries)]
    return {order_id: known[order_id] for together in ids if known.keys() >= set(together) for order_id in together}
