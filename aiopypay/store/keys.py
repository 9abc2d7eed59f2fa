"""Idempotency keys of whole requests, whose orders are booked each under an id of its own."""

from collections.abc import Sequence
from uuid import UUID

from aiopypay.database import Connection, fetch

SELECT_OTHER_CONTENT = """
SELECT TRUE FROM orders WHERE id = ANY(%(ids)s::uuid[]) AND fingerprint <> %(fingerprint)s LIMIT 1
"""


async def has_other_content(connection: Connection, order_ids: Sequence[UUID], fingerprint: bytes) -> bool:
    """Tells whether one of these orders was booked, or refused at settling, as part of another content."""
    # One text for all: a thousand values are adapted one by one.
    ids = ",".join([order_id.hex for order_id in order_ids])
    parameters = {"ids": f"{{{ids}}}", "fingerprint": fingerprint}
    return bool(await fetch(connection, SELECT_OTHER_CONTENT, parameters))
