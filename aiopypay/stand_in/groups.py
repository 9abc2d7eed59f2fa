"""What of the journal is settled together: a group is booked in one transaction, or refused as one."""

from collections.abc import Mapping, Sequence
from itertools import groupby
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
