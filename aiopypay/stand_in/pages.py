"""What a node reads to be able to stand in: everything, page by page."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from aiopypay.ledger import Currency
from aiopypay.stand_in.records import KnownUser
from aiopypay.statements import Connection, fetch
from aiopypay.store.accounts import AccountState

# One that lacks either account, as SQL by hand may leave it, is of no use, and no harm to the others.
SELECT_CURRENCIES = """
SELECT currencies.id, description, commission, decimals,
    min(accounts.id) FILTER (WHERE accounts.id > 0) AS commission_account_id,
    min(accounts.id) FILTER (WHERE accounts.id < 0) AS external_account_id
FROM currencies
JOIN accounts ON accounts.currency_id = currencies.id AND (accounts.user_id = 1 OR accounts.id < 0)
GROUP BY currencies.id
HAVING min(accounts.id) < 0 AND max(accounts.id) > 0
ORDER BY ordinal
"""

_USERS = """
SELECT id, username, full_name, password_hash, is_admin, is_active, version, deactivations, created_at
FROM users
"""

_ACCOUNTS = """
SELECT id, user_id, currency_id, amount, version, created_at, updated_at
FROM accounts
"""

SELECT_USERS = _USERS + "WHERE id > %(after)s ORDER BY id LIMIT %(limit)s"
SELECT_USERS_CHANGED = """
SELECT id, username, full_name, password_hash, is_admin, is_active, version, deactivations, created_at,
    coalesce(updated_at, created_at)
FROM users
WHERE coalesce(updated_at, created_at) >= %(since)s
AND (coalesce(updated_at, created_at), id) > (%(since)s, %(after)s)
ORDER BY coalesce(updated_at, created_at), id LIMIT %(limit)s
"""
SELECT_USERS_BY_ID = _USERS + "WHERE id = ANY(%(ids)s)"
SELECT_USERS_NAMED = _USERS + "WHERE lower(username) = ANY(%(usernames)s)"
SELECT_ACCOUNTS = _ACCOUNTS + "WHERE id > %(after)s ORDER BY id LIMIT %(limit)s"
SELECT_NEWEST_ACCOUNTS = """
SELECT account.id, account.user_id, currency_id, amount, version, created_at, updated_at
FROM unnest(%(user_ids)s::bigint[]) AS wanted (user_id)
CROSS JOIN LATERAL (
    SELECT id, user_id, currency_id, amount, version, created_at, updated_at FROM accounts
    WHERE accounts.user_id = wanted.user_id ORDER BY id DESC LIMIT %(limit)s
) AS account
"""
SELECT_ACCOUNTS_OF_USER = (
    _ACCOUNTS + "WHERE user_id = %(user_id)s AND id > %(after)s ORDER BY user_id, id LIMIT %(limit)s"
)
SELECT_OPENING_ORDERS = """
SELECT order_id FROM accounts WHERE id = ANY(%(ids)s) AND order_id IS NOT NULL
UNION
SELECT order_id FROM transfers WHERE to_account_id = ANY(%(ids)s) AND kind = 'opening'
"""
SELECT_ACCOUNTS_BY_ID = _ACCOUNTS + "WHERE id = ANY(%(ids)s)"

# The newest first; an order's transfers stand together.
SELECT_ORDERS_BEFORE = """
SELECT min(id), order_id
FROM (
    SELECT id, order_id FROM transfers WHERE id < %(before)s ORDER BY id DESC LIMIT %(limit)s
) AS page
GROUP BY order_id
"""

# Refusals, and the openings of accounts. One by one: an EXISTS may be made of all transfers that there are.
SELECT_ORDERS_WITHOUT_TRANSFERS = """
SELECT id, (SELECT order_id FROM transfers WHERE order_id = page.id LIMIT 1) IS NULL AS is_bare
FROM (SELECT id FROM orders WHERE id > %(after)s ORDER BY id LIMIT %(limit)s) AS page
ORDER BY id
"""

SELECT_LAST_IDS = """
SELECT (SELECT coalesce(max(id), 0) FROM transfers), (SELECT coalesce(max(id), 0) FROM accounts)
"""

SELECT_TRANSFERS_AFTER = """
SELECT id, order_id, from_account_id, to_account_id FROM transfers WHERE id > %(after)s ORDER BY id LIMIT %(limit)s
"""


async def currencies(connection: Connection) -> list[Currency]:
    """Returns all currencies, with the accounts that the ledger needs, in the order of their creation."""
    return [Currency(*row) for row in await fetch(connection, SELECT_CURRENCIES)]


async def users_after(connection: Connection, user_id: int, limit: int) -> list[KnownUser]:
    """Returns the users behind this id."""
    return [KnownUser(*row) for row in await fetch(connection, SELECT_USERS, {"after": user_id, "limit": limit})]


async def users_changed(
    connection: Connection, since: datetime, user_id: int, limit: int
) -> tuple[list[KnownUser], datetime]:
    """Returns the users changed since, or then and with a higher id, the earliest first; and when the last was."""
    parameters = {"since": since, "after": user_id, "limit": limit}
    rows = await fetch(connection, SELECT_USERS_CHANGED, parameters)
    return [KnownUser(*row[:-1]) for row in rows], rows[-1][-1] if rows else since


async def now(connection: Connection) -> datetime:
    """Returns the moment at which the transaction began, by the database's own clock."""
    return (await fetch(connection, "SELECT now()"))[0][0]  # type: ignore[no-any-return]


async def users_named(connection: Connection, usernames: Sequence[str]) -> list[KnownUser]:
    """Returns the users with these names, which are in lower case."""
    return [KnownUser(*row) for row in await fetch(connection, SELECT_USERS_NAMED, {"usernames": list(usernames)})]


async def users_by_id(connection: Connection, user_ids: Sequence[int]) -> list[KnownUser]:
    """Returns these users."""
    return [KnownUser(*row) for row in await fetch(connection, SELECT_USERS_BY_ID, {"ids": list(user_ids)})]


async def accounts_after(connection: Connection, account_id: int, limit: int) -> list[AccountState]:
    """Returns the accounts behind this id."""
    rows = await fetch(connection, SELECT_ACCOUNTS, {"after": account_id, "limit": limit})
    return [AccountState(*row) for row in rows]


async def newest_accounts_of_users(connection: Connection, user_ids: Sequence[int], limit: int) -> list[AccountState]:
    """Returns the newest accounts of these users, of each `limit` at most."""
    rows = await fetch(connection, SELECT_NEWEST_ACCOUNTS, {"user_ids": list(user_ids), "limit": limit})
    return [AccountState(*row) for row in rows]


async def accounts_of_user_after(
    connection: Connection, user_id: int, account_id: int, limit: int
) -> list[AccountState]:
    """Returns the user's accounts behind this id."""
    parameters = {"user_id": user_id, "after": account_id, "limit": limit}
    return [AccountState(*row) for row in await fetch(connection, SELECT_ACCOUNTS_OF_USER, parameters)]


async def opening_orders_of_accounts(connection: Connection, account_ids: Sequence[int]) -> list[UUID]:
    """Returns the ids of the orders that opened these accounts: under a key, or with a credit."""
    return [row[0] for row in await fetch(connection, SELECT_OPENING_ORDERS, {"ids": list(account_ids)})]


async def accounts_by_id(connection: Connection, account_ids: Sequence[int]) -> list[AccountState]:
    """Returns these accounts."""
    return [AccountState(*row) for row in await fetch(connection, SELECT_ACCOUNTS_BY_ID, {"ids": list(account_ids)})]


async def orders_before(connection: Connection, transfer_id: int, limit: int) -> tuple[list[UUID], int | None]:
    """Returns ids of orders with transfers below this id, and the lowest of those (None: there are no more)."""
    rows = await fetch(connection, SELECT_ORDERS_BEFORE, {"before": transfer_id, "limit": limit})
    return [row[1] for row in rows], min((row[0] for row in rows), default=None)


async def bare_orders_after(connection: Connection, order_id: UUID, limit: int) -> tuple[list[UUID], UUID | None]:
    """Returns ids of orders without transfers behind this id, and where to go on (None: there are no more)."""
    rows = await fetch(connection, SELECT_ORDERS_WITHOUT_TRANSFERS, {"after": order_id, "limit": limit})
    return [row[0] for row in rows if row[1]], rows[-1][0] if rows else None


async def last_ids(connection: Connection) -> tuple[int, int]:
    """Returns the highest ids of a transfer and of an account, 0 where there is none."""
    row = (await fetch(connection, SELECT_LAST_IDS))[0]
    return row[0], row[1]


async def transfers_after(connection: Connection, transfer_id: int, limit: int) -> tuple[set[UUID], set[int], int]:
    """Returns orders and accounts of the transfers behind this id, and the last id (this one: there are no more)."""
    rows = await fetch(connection, SELECT_TRANSFERS_AFTER, {"after": transfer_id, "limit": limit})
    accounts = {row[2] for row in rows} | {row[3] for row in rows}
    return {row[1] for row in rows}, accounts, rows[-1][0] if rows else transfer_id
