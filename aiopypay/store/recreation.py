"""What an older backup lacks, put back under its old ids: currencies, users, accounts."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from aiopypay.ledger import Currency
from aiopypay.statements import Connection, fetch
from aiopypay.store.accounts import AccountState
from aiopypay.store.users import User

# Ids that were given out before are not given to anybody else.
RAISE_SEQUENCE = """
SELECT setval(pg_get_serial_sequence(%(table)s, 'id'), greatest(last_value, %(highest)s)) FROM {sequence}
"""
SELECT_SEQUENCE = "SELECT pg_get_serial_sequence(%(table)s, 'id')"

SELECT_USERS = """
SELECT id, username, created_at, version FROM users
WHERE id = ANY(%(ids)s::bigint[]) OR lower(username) = ANY(%(usernames)s::text[])
"""

INSERT_USER = """
INSERT INTO users
    (id, username, full_name, password_hash, is_admin, is_active, deactivations, version, created_at)
VALUES (
    %(id)s, %(username)s, %(full_name)s, %(password_hash)s, %(is_admin)s, %(is_active)s, %(deactivations)s,
    %(version)s, coalesce(%(created_at)s, now())
)
"""

# How often they were deactivated is counted by a trigger, and set by a statement of its own.
UPDATE_USER = """
UPDATE users SET
    full_name = %(full_name)s, password_hash = %(password_hash)s,
    is_admin = %(is_admin)s, is_active = %(is_active)s
WHERE id = %(id)s
"""
RAISE_DEACTIVATIONS = """
UPDATE users SET deactivations = greatest(deactivations, %(deactivations)s) WHERE id = %(id)s
"""

SELECT_ACCOUNTS = "SELECT id, currency_id, created_at, user_id FROM accounts WHERE id = ANY(%(ids)s::bigint[])"

INSERT_ACCOUNT = """
INSERT INTO accounts (id, user_id, currency_id, version, created_at, updated_at)
VALUES (%(id)s, %(user_id)s, %(currency_id)s, %(version)s, %(created_at)s, %(updated_at)s)
"""

# An account and the order that opened it were written in one transaction, and so bear the same moment.
MARK_OPENED = """
UPDATE accounts SET order_id = %(order_id)s
WHERE id = (
    SELECT id FROM accounts
    WHERE user_id = %(user_id)s AND created_at = %(posted_at)s AND order_id IS NULL
    ORDER BY id LIMIT 1
)
"""

SELECT_CURRENCY_IDS = "SELECT id FROM currencies"

# The external account's id is the currency's ordinal, negative.
INSERT_CURRENCY = """
INSERT INTO currencies (id, description, commission, decimals, ordinal)
OVERRIDING SYSTEM VALUE
SELECT %(id)s, %(description)s, %(commission)s, %(decimals)s, %(ordinal)s
WHERE NOT EXISTS (SELECT FROM currencies WHERE ordinal = %(ordinal)s)
RETURNING setval(
    pg_get_serial_sequence('currencies', 'ordinal'),
    greatest(%(ordinal)s, (SELECT max(ordinal) FROM currencies))
)
"""

INSERT_EXTERNAL_ACCOUNT = """
INSERT INTO accounts (id, currency_id) VALUES (%(id)s, %(currency_id)s) ON CONFLICT (id) DO NOTHING
"""


class FoundUser(msgspec.Struct, frozen=True, gc=False):
    """Who has this id, or this name."""

    id: int
    username: str
    created_at: datetime
    version: int


class FoundAccount(msgspec.Struct, frozen=True, gc=False):
    """Which account has this id. An external one has no user."""

    id: int
    currency_id: str
    created_at: datetime
    user_id: int | None


async def raise_sequences(connection: Connection, *, users: int, accounts: int, transfers: int) -> None:
    """Sees to it that ids up to these are not given out."""
    for table, highest in (("users", users), ("accounts", accounts), ("transfers", transfers)):
        sequence = (await fetch(connection, SELECT_SEQUENCE, {"table": table}))[0][0]
        await fetch(connection, RAISE_SEQUENCE.format(sequence=sequence), {"table": table, "highest": max(1, highest)})


async def find_users(connection: Connection, users: Sequence[User]) -> list[FoundUser]:
    """Returns who has the ids or the names of these users."""
    parameters = {"ids": [user.id for user in users], "usernames": [user.username.lower() for user in users]}
    return [FoundUser(*row) for row in await fetch(connection, SELECT_USERS, parameters)]


async def users_by_id(connection: Connection, user_ids: Collection[int]) -> dict[int, FoundUser]:
    """Returns who has these ids, by id."""
    rows = await fetch(connection, SELECT_USERS, {"ids": list(user_ids), "usernames": []})
    return {row[0]: FoundUser(*row) for row in rows}


async def put_user_back(connection: Connection, user: User, version: int, created_at: datetime | None) -> None:
    """Adds a user who is not there under their old id."""
    parameters = {**msgspec.structs.asdict(user), "version": version, "created_at": created_at}
    await fetch(connection, INSERT_USER, parameters)


async def renew_user(connection: Connection, user: User) -> None:
    """Gives a user who is there the password and the flags that they had later."""
    parameters = msgspec.structs.asdict(user)
    await fetch(connection, UPDATE_USER, parameters)
    await fetch(connection, RAISE_DEACTIVATIONS, parameters)


async def find_accounts(connection: Connection, account_ids: Collection[int]) -> dict[int, FoundAccount]:
    """Returns the accounts that have these ids, by id."""
    rows = await fetch(connection, SELECT_ACCOUNTS, {"ids": list(account_ids)})
    return {row[0]: FoundAccount(*row) for row in rows}


async def put_account_back(connection: Connection, account: AccountState) -> None:
    """Adds an account that is not there under its old id, without its money."""
    await fetch(connection, INSERT_ACCOUNT, msgspec.structs.asdict(account))


async def mark_opened(connection: Connection, order_id: UUID, user_id: int, posted_at: datetime) -> None:
    """Tells the account of this user that the order opened at this moment that it did."""
    await fetch(connection, MARK_OPENED, {"order_id": order_id, "user_id": user_id, "posted_at": posted_at})


async def missing_currencies(connection: Connection, currencies: Sequence[Currency]) -> list[Currency]:
    """Returns those of the currencies that are not there."""
    there = {row[0] for row in await fetch(connection, SELECT_CURRENCY_IDS)}
    return [currency for currency in currencies if currency.id not in there]


async def put_currencies_back(connection: Connection, currencies: Sequence[Currency]) -> list[Currency]:
    """Adds currencies that are not there, with their external accounts; returns those whose numbers were free."""
    added = []
    for currency in currencies:
        parameters = {**msgspec.structs.asdict(currency), "ordinal": -currency.external_account_id}
        if await fetch(connection, INSERT_CURRENCY, parameters):
            external = {"id": currency.external_account_id, "currency_id": currency.id}
            await fetch(connection, INSERT_EXTERNAL_ACCOUNT, external)
            added.append(currency)
    return added
