"""The ledger as PostgreSQL has it, read in one snapshot."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from psycopg2.extensions import connection as PgConnection  # noqa: N812 - a class with a lower-case name

SELECT_ACCOUNTS = """
SELECT accounts.id, user_id, currency_id, amount, commission, decimals, order_id::text
FROM accounts JOIN currencies ON currencies.id = currency_id
"""
SELECT_ORDERS = "SELECT id::text, user_id, idempotency_key, status, reason, balance FROM orders"
SELECT_TRANSFERS = """
SELECT id, order_id::text, kind, from_account_id, to_account_id, amount, comment FROM transfers ORDER BY id
"""
SELECT_USERNAMES = "SELECT username FROM users"


@dataclass(frozen=True)
class AccountRow:
    """An account and what counts of its currency. External accounts have no user."""

    id: int
    user_id: int | None
    currency_id: str
    amount: Decimal
    commission: Decimal
    decimals: int
    # That opened it, where a key was sent.
    order_id: str | None


@dataclass(frozen=True)
class OrderRow:
    """An order with its outcome."""

    id: str
    user_id: int
    idempotency_key: str | None
    status: str
    reason: str | None
    balance: Decimal | None


@dataclass(frozen=True)
class TransferRow:
    """A booked transfer."""

    id: int
    order_id: str
    kind: str
    from_account_id: int
    to_account_id: int
    amount: Decimal
    comment: str


@dataclass(frozen=True)
class Ledger:
    """All accounts and orders by id, all transfers in the order of their ids, the names of all users."""

    accounts: dict[int, AccountRow]
    orders: dict[str, OrderRow]
    transfers: list[TransferRow]
    usernames: set[str]

    def of_order(self, order_id: str) -> list[TransferRow]:
        """The transfers that an order booked."""
        return [transfer for transfer in self.transfers if transfer.order_id == order_id]


def read_ledger(connection: PgConnection) -> Ledger:
    """Reads it within a transaction of the caller's, or a snapshot of its own."""

    def rows(sql: str) -> list[tuple[Any, ...]]:
        cursor.execute(sql)
        return cursor.fetchall()

    own_snapshot = connection.autocommit
    with connection.cursor() as cursor:
        if own_snapshot:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        ledger = Ledger(
            {row[0]: AccountRow(*row) for row in rows(SELECT_ACCOUNTS)},
            {row[0]: OrderRow(*row) for row in rows(SELECT_ORDERS)},
            [TransferRow(*row) for row in rows(SELECT_TRANSFERS)],
            {username for (username,) in rows(SELECT_USERNAMES)},
        )
        if own_snapshot:
            cursor.execute("COMMIT")
    return ledger
