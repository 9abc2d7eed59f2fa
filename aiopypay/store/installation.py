"""Which installation this database is, which nodes serve it, and which of them stands in."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from aiopypay.statements import Connection, fetch

OWNS_TABLES = "SELECT pg_has_role(relowner, 'MEMBER') FROM pg_class WHERE oid = 'transfers'::regclass"

# It writes: a database that can only be read is not back.
BEAT = f"""
UPDATE installation SET heartbeat_at = now()
RETURNING id, (SELECT max(name) FROM migrations), ({OWNS_TABLES})
"""  # noqa: S608 - SQL of ours

REGISTER_NODE = """
INSERT INTO nodes (id) VALUES (%(node_id)s)
ON CONFLICT (id) DO UPDATE SET last_seen_at = now()
"""

# A lease that is free is taken; one that another node holds stays there.
TAKE_LEASE = """
UPDATE stand_in_lease SET node_id = %(node_id)s, taken_at = now() WHERE node_id IS NULL
"""

SELECT_LEASE = """
SELECT node_id, taken_at, last_seen_at, (SELECT count(*) FROM nodes), (SELECT departures FROM installation)
FROM stand_in_lease
LEFT JOIN nodes ON nodes.id = node_id
"""

# By the row that each heartbeat writes: nodes come and go one after the other.
LOCK_NODES = "SELECT FROM installation FOR UPDATE"

SELECT_OTHERS = "SELECT EXISTS (SELECT FROM nodes WHERE id <> %(node_id)s)"

SELECT_NODE = """
SELECT extract(EPOCH FROM clock_timestamp() - last_seen_at)::float8,
    EXISTS (SELECT FROM stand_in_lease WHERE node_id = nodes.id)
FROM nodes
WHERE id = %(node_id)s
"""

FREE_LEASE = "UPDATE stand_in_lease SET node_id = NULL, taken_at = NULL WHERE node_id = %(node_id)s"

DELETE_NODE = "DELETE FROM nodes WHERE id = %(node_id)s"

COUNT_DEPARTURE = "UPDATE installation SET departures = departures + 1"

MOVE_LEASE = """
UPDATE stand_in_lease SET node_id = %(node_id)s, taken_at = now()
WHERE %(node_id)s::uuid IS NULL OR EXISTS (SELECT FROM nodes WHERE id = %(node_id)s)
RETURNING TRUE
"""

SELECT_NODES = "SELECT id, registered_at, last_seen_at FROM nodes ORDER BY registered_at"


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a writable database says of itself, and whether our role owns the tables, or may act as who does."""

    installation_id: UUID
    newest_migration: str
    owns_tables: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """Who may stand in (None: nobody), how many nodes there are, and how many there were that have been removed."""

    node_id: UUID | None
    taken_at: datetime | None
    last_seen_at: datetime | None
    nodes: int
    departures: int


async def beat(connection: Connection) -> Heartbeat:
    """Writes a heartbeat and returns which database answered."""
    rows = await fetch(connection, BEAT)
    return Heartbeat(*rows[0])


async def owns_tables(connection: Connection) -> bool:
    """Tells whether our role owns the tables, or may act as who does: their guards hold as long as it wants them to."""
    return bool((await fetch(connection, OWNS_TABLES))[0][0])


async def register(connection: Connection, node_id: UUID) -> Lease:
    """Registers the node, takes the lease where it is free, and returns who holds it."""
    await fetch(connection, REGISTER_NODE, {"node_id": node_id})
    await fetch(connection, TAKE_LEASE, {"node_id": node_id})
    return await lease(connection)


async def lease(connection: Connection) -> Lease:
    """Returns who holds the lease."""
    return Lease(*(await fetch(connection, SELECT_LEASE))[0])


async def has_others(connection: Connection, node_id: UUID) -> bool:
    """Tells whether there are other nodes than this one, which stays true until the transaction ends."""
    await fetch(connection, LOCK_NODES)
    return bool((await fetch(connection, SELECT_OTHERS, {"node_id": node_id}))[0][0])


async def presence(connection: Connection, node_id: UUID) -> tuple[float, bool] | None:
    """Returns how many seconds ago the node was seen, and whether it holds the lease; None where there is none.

    It stays true until the transaction ends.
    """
    await fetch(connection, LOCK_NODES)
    rows = await fetch(connection, SELECT_NODE, {"node_id": node_id})
    return (rows[0][0], rows[0][1]) if rows else None


async def remove(connection: Connection, node_id: UUID) -> None:
    """Removes the node. Where it holds the lease, the lease is free. It comes back by registering."""
    await fetch(connection, COUNT_DEPARTURE)
    await fetch(connection, FREE_LEASE, {"node_id": node_id})
    await fetch(connection, DELETE_NODE, {"node_id": node_id})


async def move(connection: Connection, node_id: UUID | None) -> bool:
    """Gives the lease to a registered node, or to nobody; tells whether there is such a node."""
    await fetch(connection, LOCK_NODES)
    return bool(await fetch(connection, MOVE_LEASE, {"node_id": node_id}))


async def nodes(connection: Connection) -> list[tuple[UUID, datetime, datetime]]:
    """Returns the nodes with the times of their registration and of their last sign of life, oldest first."""
    return [(row[0], row[1], row[2]) for row in await fetch(connection, SELECT_NODES)]
