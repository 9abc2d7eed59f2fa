"""The tables of the store.

Each row carries a checksum over its table's name and all its values. What is looked up has a column of its own;
everything else is in `content`, as `formats` has it.
"""

import sqlite3
from functools import cache

# The table of plans of the first format; the tables of the others are these.
OLDER_PLAN = "CREATE TABLE plan (id INTEGER PRIMARY KEY CHECK (id = 1), content BLOB NOT NULL, checksum BLOB NOT NULL)"
PLAN = "CREATE TABLE plan (id INTEGER PRIMARY KEY, content BLOB NOT NULL, checksum BLOB NOT NULL)"

SCHEMA = f"""
CREATE TABLE seal (id INTEGER PRIMARY KEY, content BLOB NOT NULL, checksum BLOB NOT NULL);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL, checksum BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY, user_id INTEGER, content BLOB NOT NULL, checksum BLOB NOT NULL
);
CREATE INDEX accounts_of_user ON accounts (user_id);
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, content BLOB NOT NULL, checksum BLOB NOT NULL);
CREATE INDEX users_by_name ON users (name);
CREATE TABLE uncertain (name TEXT PRIMARY KEY, checksum BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE currencies (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, content BLOB NOT NULL, checksum BLOB NOT NULL
);
CREATE TABLE orders (
    position INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, content BLOB NOT NULL, checksum BLOB NOT NULL
);
{PLAN};
CREATE TABLE journal (
    sequence INTEGER PRIMARY KEY, order_id BLOB NOT NULL UNIQUE, content BLOB NOT NULL, link BLOB NOT NULL,
    state TEXT NOT NULL, reason TEXT, settled_at INTEGER, checksum BLOB NOT NULL
);
CREATE INDEX journal_by_state ON journal (state);
"""

SELECT_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"

# Its row, of which there is one at most, keeps its values and with them its checksum.
RENEW_PLAN = (
    "ALTER TABLE plan RENAME TO older_plan",
    PLAN,
    "INSERT INTO plan (id, content, checksum) SELECT id, content, checksum FROM older_plan",
    "DROP TABLE older_plan",
)

# Whole tables, for the verification: every column, the checksum last.
SCANS = {
    "settings": "SELECT name, value, checksum FROM settings",
    "accounts": "SELECT id, user_id, content, checksum FROM accounts",
    "users": "SELECT id, name, content, checksum FROM users",
    "uncertain": "SELECT name, checksum FROM uncertain",
    "currencies": "SELECT position, id, content, checksum FROM currencies",
    "orders": "SELECT position, id, content, checksum FROM orders",
    "plan": "SELECT id, content, checksum FROM plan",
}
SCAN_JOURNAL = """
SELECT sequence, order_id, content, link, state, reason, settled_at, checksum FROM journal ORDER BY sequence
"""

SELECT_SEAL = "SELECT id, content, checksum FROM seal"
WRITE_SEAL = "INSERT OR REPLACE INTO seal (id, content, checksum) VALUES (?, ?, ?)"


@cache
def expected_schema(store_format: int) -> list[tuple[str, ...]]:
    """Returns what SELECT_SCHEMA finds in a sound store of this format."""
    with_schema = sqlite3.connect(":memory:", isolation_level=None)
    try:
        with_schema.executescript(SCHEMA if store_format > 1 else SCHEMA.replace(PLAN, OLDER_PLAN))
        return with_schema.execute(SELECT_SCHEMA).fetchall()
    finally:
        with_schema.close()
