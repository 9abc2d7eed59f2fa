"""Which installation this database is, which nodes serve it, and which of them stands in."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from aiopypay.statements import Connection, fetch

# It writes: a database that can only be read is not back.
BEAT = """
UPDATE installation SET heartbeat_at = now()
RETURNING id, (SELECT max(name) FROM migrations)
"""

REGISTER_NODE = """
INSERT INTO nodes (id) VALUES (%(node_id)s)
ON CONFLICT (id) DO UPDATE SET last_seen_at = now()
"""

# A lease that is free is taken; one that another node holds stays there.
TAKE_LEASE = """
UPDATE stand_in_lease SET node_id = %(node_id)s, taken_at = now() WHERE node_id IS NULL
"""

SELECT_LEASE = """
SELECT node_id, taken_at, last_seen_at, (SELECT count(*) FROM nodes)
FROM stand_in_lease
LEFT JOIN nodes ON nodes.id = node_id
"""

RELEASE_LEASE = """
UPDATE stand_in_lease SET node_id = NULL, taken_at = NULL
WHERE node_id = %(node_id)s AND (SELECT count(*) FROM nodes) > 1
"""

MOVE_LEASE = """
UPDATE stand_in_lease SET node_id = %(node_id)s, taken_at = now()
WHERE %(node_id)s::uuid IS NULL OR EXISTS (SELECT FROM nodes WHERE id = %(node_id)s)
RETURNING TRUE
"""

SELECT_NODES = "SELECT id, registered_at, last_seen_at FROM nodes ORDER BY registered_at"


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a writable database says of itself."""

    installation_id: UUID
    newest_migration: str


@dataclass(frozen=True, slots=True)
class Lease:
    """Who may stand in (None: nobody), and how many nodes have ever registered."""

    node_id: UUID | None
    taken_at: datetime | None
    last_seen_at: datetime | None
    nodes: int


async def beat(connection: Connection) -> Heartbeat:
    """Writes a heartbeat and returns which database answered."""
    rows = await fetch(connection, BEAT)
    return Heartbeat(*rows[0])


async def register(connection: Connection, node_id: UUID) -> Lease:
    """Registers the node, takes the lease where it is free, and returns who holds it."""
    await fetch(connection, REGISTER_NODE, {"node_id": node_id})
    await fetch(connection, TAKE_LEASE, {"node_id": node_id})
    return await lease(connection)


async def lease(connection: Connection) -> Lease:
    """Returns who holds the lease."""
    return Lease(*(await fetch(connection, SELECT_LEASE))[0])


async def release(connection: Connection, node_id: UUID) -> None:
    """Gives the lease up. A node that is alone keeps it: it must be able to start without the database."""
    await fetch(connection, RELEASE_LEASE, {"node_id": node_id})


async def move(connection: Connection, node_id: UUID | None) -> bool:
    """Gives the lease to a registered node, or to nobody; tells whether there is such a node."""
    return bool(await fetch(connection, MOVE_LEASE, {"node_id": node_id}))


async def nodes(connection: Connection) -> list[tuple[UUID, datetime, datetime]]:
    """Returns the nodes with the times of their registration and of their last sign of life, oldest first."""
    return [(row[0], row[1], row[2]) for row in await fetch(connection, SELECT_NODES)]
