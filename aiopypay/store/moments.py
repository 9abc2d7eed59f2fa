"""Which moment of a node the database holds: demanded first in each of its writes, and replaced last.

The statements of batches (`order_statements`) do both on their way; these are for all others.
"""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

import msgspec

from aiopypay.errors import OtherMoment
from aiopypay.statements import Connection, fetch

# Locked, so that a COMMIT whose answer is missing is decided before anything is concluded.
SELECT_MOMENT = "SELECT count, token FROM moments WHERE node_id = %(node_id)s FOR UPDATE"

REPLACE_MOMENT = """
INSERT INTO moments (node_id, count, token) VALUES (%(node_id)s, %(count)s, %(token)s)
ON CONFLICT (node_id) DO UPDATE SET count = excluded.count, token = excluded.token, written_at = now()
"""


class Moment(msgspec.Struct, frozen=True, gc=False):
    """A moment of the database, as far as one node wrote it: how many it was, and a random token that no other has."""

    count: int
    token: UUID


@dataclass(frozen=True, slots=True)
class Step:
    """What a writing transaction of a node goes on from, and to.

    `known` are the moments of which the database must hold one; a node that has not written before knows none.
    `to` is None where the node cannot note a moment on its disk: then the one that is there stays.
    """

    node_id: UUID
    known: Collection[Moment]
    to: Moment | None
    is_first: bool = False

    def check(self, found: Moment | None) -> None:
        """Raises OtherMoment where the database holds none of the moments that it must hold."""
        if found not in self.known and not (found is None and self.is_first):
            raise OtherMoment(found.count if found else None)


async def demand(connection: Connection, step: Step) -> None:
    """Locks the node's moment until the transaction ends. Raises OtherMoment."""
    step.check(await moment_of(connection, step.node_id))


async def moment_of(connection: Connection, node_id: UUID) -> Moment | None:
    """Returns the node's moment, locked until the transaction ends; None where there is none."""
    rows = await fetch(connection, SELECT_MOMENT, {"node_id": node_id})
    return Moment(*rows[0]) if rows else None


async def replace_moment(connection: Connection, step: Step) -> None:
    """Puts the new moment in the old one's place."""
    if step.to is not None:
        parameters = {"node_id": step.node_id, "count": step.to.count, "token": step.to.token}
        await fetch(connection, REPLACE_MOMENT, parameters)
