"""What the store holds, in figures: told by its thread after each piece of work, so that nobody waits to know them."""

from dataclasses import dataclass
from datetime import datetime

from aiopypay.stand_in.store import Store


@dataclass(frozen=True, slots=True)
class Contents:
    """`oldest` is when the first of the entries that are `pending` was accepted; `free_bytes` is the disk's room."""

    pending: int = 0
    oldest: datetime | None = None
    users: int = 0
    accounts: int = 0
    orders: int = 0
    uncertain: int = 0
    free_bytes: int = 0

    @property
    def remembered(self) -> dict[str, int]:
        """How many there are of what is remembered."""
        return {name: getattr(self, name) for name in ("users", "accounts", "orders", "uncertain")}


def contents_of(store: Store) -> Contents:
    """Returns the figures. All but the oldest entry are in memory, and that is looked up only where there is one."""
    if store.damage is not None:
        return Contents(free_bytes=store.free_bytes())
    accounts, users = store.counts()
    pending = store.pending_count()
    oldest = store.oldest_pending() if pending else None
    return Contents(
        pending,
        oldest.entry.order.accepted_at if oldest else None,
        users,
        accounts,
        store.order_count(),
        store.uncertain_count(),
        store.free_bytes(),
    )
