"""The change log: what of accounts, users and currencies others than nodes have changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from aiopypay.statements import Connection, Statement, fetch

Table = Literal["accounts", "users", "currencies"]
# A row of a table by its id; None stands for any row, and is all that is said of currencies.
Change = tuple[Table, int | None]

EVERYTHING: frozenset[Change] = frozenset((table, None) for table in get_args(Table))
CHANGES_MAX = 10_000
# After a failover numbers of transactions may be given out again that were begun, and never committed, before it.
OVERLAP = 10_000

# What committed since the snapshot, so was not visible in it: nothing is missed that commits late, nor read twice. What
# bears a number of the future was restored from another server. Where there is very much, it is not all read: it stands
# for everything.
SELECT_CHANGES = Statement(
    "select_changes",
    ("lowest", "seen", "overlap"),
    """
SELECT snapshot.now::text, log.subject, log.row_id
FROM (SELECT pg_current_snapshot() AS now) AS snapshot
LEFT JOIN LATERAL (
    WITH found AS MATERIALIZED (
        SELECT subject, row_id
        FROM change_log
        WHERE xact_id >= $1::xid8 AND xact_id < pg_snapshot_xmax(snapshot.now)
        AND (NOT pg_visible_in_snapshot(xact_id, $2::pg_snapshot) OR ($3 AND subject <> 'everything'))
        LIMIT 50001
    )
    (SELECT 'everything' AS subject, NULL::bigint AS row_id FROM found OFFSET 50000)
    UNION ALL
    (SELECT DISTINCT subject, row_id FROM found LIMIT 10001)
) AS log ON TRUE
""",
)

SELECT_SNAPSHOT = "SELECT pg_current_snapshot()::text"

SELECT_CHANGED_ACCOUNTS = """
SELECT DISTINCT row_id FROM change_log
WHERE xact_id >= %(lowest)s::xid8 AND NOT pg_visible_in_snapshot(xact_id, %(seen)s::pg_snapshot)
AND subject IN ('accounts', 'everything') AND (row_id IS NULL OR row_id = ANY(%(ids)s))
"""

# In the place of what is dropped stands one entry for all of it, which only those find who have not read it.
PRUNE = """
WITH pruned AS (
    DELETE FROM change_log WHERE ctid = ANY(ARRAY(
        SELECT ctid
        FROM (
            SELECT ctid, logged_at FROM change_log
            WHERE xact_id < pg_snapshot_xmin(%(seen)s::pg_snapshot) ORDER BY xact_id LIMIT 1000
        ) AS oldest
        WHERE logged_at < now() - INTERVAL '1 day'
    ))
    RETURNING xact_id
), noted AS (
    INSERT INTO change_log (xact_id, subject)
    SELECT xact_id, 'everything' FROM pruned ORDER BY xact_id DESC LIMIT 1
)
SELECT count(*) FROM pruned
"""


@dataclass(frozen=True, slots=True)
class Look:
    """What was found in the log, and the snapshot in which it was looked at."""

    snapshot: str
    changes: frozenset[Change]


async def log_for_nodes(connection: Connection) -> None:
    """What this transaction changes from now on is logged, although its session is a node's."""
    await fetch(connection, "SELECT set_config('aiopypay.node', '', TRUE)")


async def look(connection: Connection, seen: str | None, *, overlap: bool) -> Look:
    """Returns what was logged since the snapshot `seen` was taken; everything where nothing is known of that.

    One statement. `overlap`: what the transactions before that have logged, too.
    """
    if seen is None:
        return Look((await fetch(connection, SELECT_SNAPSHOT))[0][0], EVERYTHING)
    lowest = max(0, _lowest(seen) - OVERLAP * overlap)
    rows = await fetch(connection, SELECT_CHANGES, {"lowest": str(lowest), "seen": seen, "overlap": overlap})
    snapshot: str = rows[0][0]
    changes: frozenset[Change] = frozenset((row[1], row[2]) for row in rows if row[1] is not None)
    is_of_another_server = _next(seen) > _next(snapshot) + OVERLAP
    if is_of_another_server or len(changes) > CHANGES_MAX or ("everything", None) in changes:
        return Look(snapshot, EVERYTHING)
    return Look(snapshot, changes)


async def changed_accounts(connection: Connection, seen: str, account_ids: Sequence[int]) -> set[int]:
    """Returns those of the accounts that the log names in entries that were not visible in the snapshot `seen`."""
    parameters = {"lowest": str(_lowest(seen)), "seen": seen, "ids": list(account_ids)}
    rows = await fetch(connection, SELECT_CHANGED_ACCOUNTS, parameters)
    changed = {row[0] for row in rows}
    return set(account_ids) if None in changed else changed


async def prune(connection: Connection, seen: str) -> int:
    """Drops some of what is older than a day and was visible in the snapshot `seen`; returns how much."""
    dropped: int = (await fetch(connection, PRUNE, {"seen": seen}))[0][0]
    return dropped


def _lowest(snapshot: str) -> int:
    """Returns the number of the first transaction that was not over (`xmin:xmax:running`)."""
    return int(snapshot.partition(":")[0])


def _next(snapshot: str) -> int:
    return int(snapshot.split(":")[1])
