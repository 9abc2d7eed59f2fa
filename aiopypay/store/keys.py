"""Idempotency keys of whole requests, whose orders are booked each under an id of its own."""

from collections.abc import Sequence

from aiopypay.database import Connection, fetch
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
