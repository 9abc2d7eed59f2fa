"""Users and their credentials."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from uuid import UUID

import msgspec

from aiopypay.errors import AccessChanged
from aiopypay.ledger import COMMENTS
from aiopypay.statements import Connection, Statement, fetch

UNUSABLE_PASSWORD = "!"

SELECT_BY_USERNAME = Statement(
    "users_by_name",
    ("usernames",),
    """
SELECT id, username, full_name, password_hash, is_admin, is_active, deactivations
FROM users
WHERE lower(username) = ANY($1::text[])
""",
)

# A name that is known to be taken is looked for first: a conflict uses up an id. What is taken meanwhile is a conflict.
# Names are of ASCII letters, and made small as such: the database's own locale may have other rules (Turkish).
INSERT_USER = """
INSERT INTO users (username, full_name, password_hash, registration_key)
SELECT %(username)s, %(full_name)s, %(password_hash)s, %(registration_key)s
WHERE NOT EXISTS (SELECT FROM users WHERE lower(username) = lower(%(username)s COLLATE "C"))
ON CONFLICT (lower(username)) DO NOTHING
RETURNING id
"""

SELECT_REGISTERED = """
SELECT id, username, full_name, password_hash, is_admin, is_active, deactivations, registration_key
FROM users WHERE lower(username) = %(username)s
"""

# One account per currency, in the order of the currencies' creation.
INSERT_ACCOUNTS = """
INSERT INTO accounts (user_id, currency_id)
SELECT %(user_id)s, id FROM currencies ORDER BY ordinal
RETURNING id, currency_id
"""

INSERT_OPENING_ORDER = """
INSERT INTO orders (id, user_id, fingerprint, status, accepted_at, posted_at)
VALUES (%(order_id)s, %(user_id)s, ''::bytea, 'posted', now(), now())
"""

# Against the external account of each currency, so that the balances of a currency sum to zero.
INSERT_OPENING_TRANSFERS = """
WITH credits AS (
    SELECT external.id AS from_account_id, credit.account_id AS to_account_id, credit.amount
    FROM unnest(%(account_ids)s::bigint[], %(currency_ids)s::text[], %(amounts)s::numeric[])
        AS credit (account_id, currency_id, amount)
    JOIN accounts AS external ON external.currency_id = credit.currency_id AND external.id < 0
), booked AS (
    INSERT INTO transfers (order_id, kind, from_account_id, to_account_id, amount, comment)
    SELECT %(order_id)s, 'opening', from_account_id, to_account_id, amount, %(comment)s
    FROM credits ORDER BY to_account_id
), locked AS (
    -- Waiting registrations queue here in one order, so that they cannot deadlock.
    SELECT id FROM accounts
    WHERE id IN (SELECT from_account_id FROM credits UNION ALL SELECT to_account_id FROM credits)
    ORDER BY id < 0, id
    FOR NO KEY UPDATE
)
UPDATE accounts SET amount = accounts.amount + change.amount
FROM (
    SELECT from_account_id AS id, -amount AS amount FROM credits
    UNION ALL
    SELECT to_account_id, amount FROM credits
) AS change
JOIN locked ON locked.id = change.id
WHERE accounts.id = change.id
"""

# Locked until the transaction ends: who changes this user waits for what they do in it.
LOCK_USER = """
SELECT id, username, full_name, password_hash, is_admin, is_active, deactivations
FROM users WHERE id = %(user_id)s
FOR NO KEY UPDATE
"""

SELECT_PASSWORD_HASH = "SELECT password_hash FROM users WHERE id = %(user_id)s"

# Only where it is still the hash that was verified: a password change in between wins.
UPDATE_PASSWORD_HASH = """
UPDATE users SET password_hash = %(new_hash)s
WHERE id = %(user_id)s AND password_hash = %(old_hash)s
RETURNING id
"""


class User(msgspec.Struct, frozen=True):
    """A user as the database has them. `password_hash` is argon2's encoded form.

    `deactivations` is how often they were deactivated so far, which ended their tokens each time.
    """

    id: int
    username: str
    full_name: str
    password_hash: str
    is_admin: bool
    is_active: bool
    deactivations: int = 0


async def users_by_name(connection: Connection, usernames: Sequence[str]) -> dict[str, User]:
    """Returns the users with these names, by their name in lower case. Case does not matter."""
    rows = await fetch(connection, SELECT_BY_USERNAME, {"usernames": [name.lower() for name in usernames]})
    return {row[1].lower(): User(*row) for row in rows}


async def lock_caller(connection: Connection, user: User) -> None:
    """Raises AccessChanged where the user is not any more all that they were when they were judged.

    Nobody else changes them before the transaction ends.
    """
    rows = await fetch(connection, LOCK_USER, {"user_id": user.id})
    if not rows or User(*rows[0]) != user:
        raise AccessChanged


async def registered_user(connection: Connection, username: str) -> tuple[User, str | None] | None:
    """Returns the user of this name in any case and the key they registered under; None where the name is free."""
    rows = await fetch(connection, SELECT_REGISTERED, {"username": username.lower()})
    return (User(*rows[0][:-1]), rows[0][-1]) if rows else None


async def add_user(
    connection: Connection, username: str, full_name: str, password_hash: str, registration_key: str | None = None
) -> int | None:
    """Returns the id of the new user, or None where the name is taken."""
    parameters = {
        "username": username,
        "full_name": full_name,
        "password_hash": password_hash,
        "registration_key": registration_key,
    }
    rows = await fetch(connection, INSERT_USER, parameters)
    return int(rows[0][0]) if rows else None


async def open_first_accounts(
    connection: Connection, user_id: int, order_id: UUID, credit: Mapping[str, Decimal]
) -> None:
    """Opens an account in each currency and books the sign-up credit (by currency id) under `order_id`."""
    rows = await fetch(connection, INSERT_ACCOUNTS, {"user_id": user_id})
    credited = [
        (account_id, currency_id, credit[currency_id]) for account_id, currency_id in rows if currency_id in credit
    ]
    if credited:
        await book_opening(connection, user_id, order_id, credited)


async def book_opening(
    connection: Connection, user_id: int, order_id: UUID, credited: Sequence[tuple[int, str, Decimal]]
) -> None:
    """Books the credit that accounts of this user open with: their ids, currencies and amounts."""
    parameters = {
        "order_id": order_id,
        "user_id": user_id,
        "account_ids": [account_id for account_id, _, _ in credited],
        "currency_ids": [currency_id for _, currency_id, _ in credited],
        "amounts": [amount for _, _, amount in credited],
        "comment": COMMENTS["opening"],
    }
    await fetch(connection, INSERT_OPENING_ORDER, parameters)
    await fetch(connection, INSERT_OPENING_TRANSFERS, parameters)


async def replace_password_hash(connection: Connection, user_id: int, old_hash: str, new_hash: str) -> bool:
    """Replaces the stored hash where it is still `old_hash`; tells whether it was."""
    parameters = {"user_id": user_id, "old_hash": old_hash, "new_hash": new_hash}
    return bool(await fetch(connection, UPDATE_PASSWORD_HASH, parameters))


async def password_hash_of(connection: Connection, user_id: int) -> str | None:
    """Returns the stored hash, None where there is no such user."""
    rows = await fetch(connection, SELECT_PASSWORD_HASH, {"user_id": user_id})
    return str(rows[0][0]) if rows else None
