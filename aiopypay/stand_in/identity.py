"""Whether the database that answers is the one this node knows, and has forgotten nothing that the node has seen."""

from collections.abc import Iterable
from uuid import UUID

from aiopypay.stand_in.store import Store
from aiopypay.store.installation import Heartbeat
from aiopypay.store.orders import OrderRecord

LAST_TRANSFER = "last_transfer"


def trouble_with(heartbeat: Heartbeat, installation_id: UUID | None, last_transfer: int) -> str | None:
    """Returns what is wrong with the database, None where nothing is.

    `installation_id` is the one this node has met (None: none yet), `last_transfer` the highest id it knows as booked.
    """
    if installation_id not in (None, heartbeat.installation_id):
        return (
            f"the database is installation {heartbeat.installation_id}, but this data directory belongs to "
            f"{installation_id}: connect the right database, or move the directory stand-in in it away"
        )
    if heartbeat.last_transfer < last_transfer:
        return (
            f"the database ends at transfer {heartbeat.last_transfer}, but transfer {last_transfer} was booked: an "
            "older backup was restored. Restore a newer one, or stop the service and replay what this node has kept: "
            "python -m aiopypay journal replay"
        )
    return None


def last_transfer(store: Store) -> int:
    """Returns the highest id of a transfer that this node knows as booked, 0 where it knows none."""
    return int(store.setting(LAST_TRANSFER) or 0)


def note_transfers(store: Store, records: Iterable[OrderRecord]) -> None:
    """Notes, within a transaction of the store, that these orders are booked."""
    highest = max((transfer.id or 0 for record in records for transfer in record.transfers), default=0)
    if highest > last_transfer(store):
        store.set_setting(LAST_TRANSFER, str(highest))


def forget_transfers(store: Store) -> None:
    """Forgets, within a transaction of the store, what was booked: the operator has said that the database is right."""
    store.set_setting(LAST_TRANSFER, "0")
