"""Currencies and accounts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import msgspec

from aiopypay.errors import TooManyAccounts, UnknownCurrency
from aiopypay.statements import Connection, Row, Statement, fetch

SELECT_CURRENCIES = """
SELECT id, description, commission, decimals FROM currencies ORDER BY ordinal
"""

_SELECT_ACCOUNTS = """
SELECT accounts.id, user_id, currency_id, amount, decimals, created_at, updated_at
FROM accounts
JOIN currencies ON currencies.id = currency_id
"""

SELECT_ACCOUNTS_OF_USER = (
    _SELECT_ACCOUNTS
    + "WHERE user_id = %(user_id)s AND accounts.id > %(after)s ORDER BY user_id, accounts.id LIMIT %(limit)s"
)
SELECT_ACCOUNTS = Statement(
    "accounts_by_id", ("ids",), _SELECT_ACCOUNTS + "WHERE accounts.id = ANY($1::bigint[]) AND user_id IS NOT NULL"
)
SELECT_ACCOUNT_OF_ORDER = _SELECT_ACCOUNTS + "WHERE accounts.order_id = %(order_id)s"

# Two statements: what is counted was not there before the lock was held.
SELECT_ROOM = """
SELECT FROM users WHERE id = %(user_id)s FOR NO KEY UPDATE;
SELECT
    EXISTS (SELECT FROM currencies WHERE id = %(currency_id)s),
    (SELECT count(*) FROM (SELECT FROM accounts WHERE user_id = %(user_id)s LIMIT %(accounts_max)s) AS own)
"""

INSERT_ACCOUNT = """
WITH opened AS (
    INSERT INTO accounts (user_id, currency_id, order_id)
    SELECT %(user_id)s, id, %(order_id)s FROM currencies WHERE id = %(currency_id)s
    RETURNING id, user_id, currency_id, amount, created_at, updated_at
)
SELECT opened.id, user_id, currency_id, amount, decimals, created_at, updated_at
FROM opened
JOIN currencies ON currencies.id = currency_id
"""


@dataclass(frozen=True, slots=True)
class CurrencyRow:
    """A currency as users see it. `commission` is a rate."""

    id: str
    description: str
    commission: Decimal
    decimals: int


class AccountRow(msgspec.Struct, frozen=True, gc=False):
    """An account as its owner sees it; `decimals` are its currency's."""

    id: int
    user_id: int
    currency_id: str
    amount: Decimal
    decimals: int
    created_at: datetime
    updated_at: datetime | None


class AccountState(msgspec.Struct, frozen=True, gc=False):
    """An account as a transaction saw or left it. `version` is raised by every change; an external one has no user."""

    id: int
    user_id: int | None
    currency_id: str
    amount: Decimal
    version: int
    created_at: datetime
    updated_at: datetime | None


async def currencies(connection: Connection) -> list[CurrencyRow]:
    """Returns all currencies in the order of their creation."""
    return [CurrencyRow(*row) for row in await fetch(connection, SELECT_CURRENCIES)]


async def accounts_of_user(connection: Connection, user_id: int, *, after: int, limit: int) -> list[AccountRow]:
    """Returns the user's accounts behind this id, by id, `limit` at most."""
    parameters = {"user_id": user_id, "after": after, "limit": limit}
    return [AccountRow(*row) for row in await fetch(connection, SELECT_ACCOUNTS_OF_USER, parameters)]


async def accounts_by_id(connection: Connection, account_ids: Sequence[int]) -> dict[int, AccountRow]:
    """Returns those of the accounts that there are and that have an owner, by id."""
    return {row[0]: AccountRow(*row) for row in await fetch(connection, SELECT_ACCOUNTS, {"ids": list(account_ids)})}


async def account_opened_by(connection: Connection, order_id: UUID) -> AccountRow | None:
    """Returns the account that this order opened."""
    return _first(await fetch(connection, SELECT_ACCOUNT_OF_ORDER, {"order_id": order_id}))


async def open_account(
    connection: Connection, user_id: int, currency_id: str, order_id: UUID | None, accounts_max: int
) -> AccountRow:
    """Returns a new, empty account. The user's row stays locked until the transaction ends: nobody opens one meanwhile.

    Raises UnknownCurrency; TooManyAccounts where the user has `accounts_max` already.
    """
    parameters = {"user_id": user_id, "currency_id": currency_id, "order_id": order_id, "accounts_max": accounts_max}
    [(is_currency, accounts)] = await fetch(connection, SELECT_ROOM, parameters)
    if not is_currency:
        raise UnknownCurrency(f"currency_id: there is no currency {currency_id}", field="currency_id")
    if accounts >= accounts_max:
        raise TooManyAccounts(f"You have {accounts} accounts or more, and a user may have {accounts_max}.")
    return AccountRow(*(await fetch(connection, INSERT_ACCOUNT, parameters))[0])


def _first(rows: list[Row]) -> AccountRow | None:
    return AccountRow(*rows[0]) if rows else None
