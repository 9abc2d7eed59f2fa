"""Whether all tables that our statements name are in one schema, whatever the search_path."""

from aiopypay.errors import DatabaseUnfit
from aiopypay.statements import Connection, fetch
from aiopypay.translation import UNAVAILABLE_DETAIL

TABLES = (
    "accounts",
    "change_log",
    "currencies",
    "installation",
    "migrations",
    "moments",
    "nodes",
    "orders",
    "stand_in_lease",
    "transfers",
    "users",
)

SELECT_SCHEMAS = """
SELECT relnamespace::regnamespace::text, array_agg(relname::text ORDER BY relname)
FROM pg_class
WHERE oid IN (SELECT to_regclass(name) FROM unnest(%(names)s::text[]) AS name)
GROUP BY relnamespace
ORDER BY 'installation' = ANY(array_agg(relname::text)) DESC, relnamespace
"""


async def has_schema(connection: Connection) -> bool:
    """Tells whether aiopypay's tables are there: all, or those of an older version.

    Raises DatabaseUnfit where some of the names mean tables of another schema: the search_path leads through several
    schemas, and one of those in front has a table of such a name.
    """
    schemas = await fetch(connection, SELECT_SCHEMAS, {"names": list(TABLES)})
    if len(schemas) > 1:
        (ours, _), (other, names), *_ = schemas
        raise DatabaseUnfit(
            UNAVAILABLE_DETAIL,
            f"the search_path finds {', '.join(names)} in schema {other}, and other tables of aiopypay in {ours}: set "
            "it to the one schema that has them all, with ALTER ROLE … SET search_path",
        )
    return any("installation" in names for _, names in schemas)
