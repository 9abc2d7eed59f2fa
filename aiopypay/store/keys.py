"""Idempotency keys of whole requests, whose orders are booked each under an id of its own."""

from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

from aiopypay.idempotency import first_place
from aiopypay.ledger import TransferOrder
from aiopypay.statements import Connection, fetch
from aiopypay.units import RequestKey

# Ordered, so that the ids are looked up in the index however many PostgreSQL expects to find.
SELECT_REUSED = """
SELECT key.place
FROM unnest(%(ids)s::uuid[], %(lowest)s::uuid[], %(highest)s::uuid[], %(fingerprints)s::bytea[])
    WITH ORDINALITY AS key (id, lowest, highest, fingerprint, place)
WHERE EXISTS (SELECT FROM orders WHERE orders.id = key.id AND orders.fingerprint <> key.fingerprint)
OR (
    SELECT orders.id FROM orders
    WHERE orders.id BETWEEN key.lowest AND key.highest AND orders.fingerprint <> key.fingerprint
    ORDER BY orders.id LIMIT 1
) IS NOT NULL
"""


async def reused_keys(connection: Connection, keys: Sequence[RequestKey]) -> set[int]:
    """Returns the places of the keys under which an order was booked, or refused, as part of another content."""
    parameters = {
        "ids": [None if key.is_a_transfers else key.id for key in keys],
        "lowest": [key.lowest for key in keys],
        "highest": [key.highest for key in keys],
        "fingerprints": [key.fingerprint for key in keys],
    }
    return {row[0] - 1 for row in await fetch(connection, SELECT_REUSED, parameters)}


class Known(Protocol):
    """An order that was booked, or refused, before."""

    @property
    def fingerprint(self) -> bytes:
        """Of its content; of the whole request where it was sent in a bulk without a key of its own."""


def used_by_bulks(
    orders: Sequence[TransferOrder], places: Mapping[UUID, tuple[UUID, UUID]], known: Mapping[UUID, Known]
) -> list[UUID]:
    """Returns those of the orders that are not known, but whose key is that of a bulk that is, by its `places`."""
    bulks = {first_place(order_id): order.fingerprint for order_id, order in known.items()}
    return [
        order.id
        for order in orders
        if order.id in places
        and order.id not in known
        and bulks.get(places[order.id][0], order.fingerprint) != order.fingerprint
    ]
