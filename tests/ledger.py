"""The books, read and written by plain SQL, as an operator would: the tests' own view of the truth."""

import asyncio
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psycopg2
import psycopg2.extensions
from psycopg2.extensions import make_dsn, parse_dsn

from aiopypay.embedded.roles import OWNER, SERVICE

UNBALANCED_CURRENCIES = """
SELECT currency_id, sum(amount) FROM accounts GROUP BY currency_id HAVING sum(amount) <> 0
"""

ACCOUNTS_UNLIKE_THEIR_TRANSFERS = """
SELECT accounts.id, amount, coalesce(received, 0) - coalesce(paid, 0)
FROM accounts
LEFT JOIN (SELECT to_account_id AS id, sum(amount) AS received FROM transfers GROUP BY 1) AS credits
    ON credits.id = accounts.id
LEFT JOIN (SELECT from_account_id AS id, sum(amount) AS paid FROM transfers GROUP BY 1) AS debits
    ON debits.id = accounts.id
WHERE amount <> coalesce(received, 0) - coalesce(paid, 0)
"""

OVERDRAWN_ACCOUNTS = "SELECT id, amount FROM accounts WHERE id > 0 AND amount < 0"

TRANSFERS_ACROSS_CURRENCIES = """
SELECT transfers.id
FROM transfers
JOIN accounts AS source ON source.id = from_account_id
JOIN accounts AS target ON target.id = to_account_id
WHERE source.currency_id <> target.currency_id
"""

# The commission of a payment, worked out anew; none where the superuser pays. A power of integers would be a float.
COMMISSIONS_UNLIKE_THE_RULE = """
SELECT payment.order_id, payment.amount, coalesce(commission.amount, 0)
FROM transfers AS payment
JOIN accounts AS source ON source.id = payment.from_account_id
JOIN currencies ON currencies.id = source.currency_id
LEFT JOIN transfers AS commission ON commission.order_id = payment.order_id AND commission.kind = 'commission'
WHERE payment.kind IN ('payment', 'internal') AND coalesce(commission.amount, 0) <> CASE
    WHEN payment.kind = 'internal' OR source.user_id = 1 THEN 0
    ELSE ceil(payment.amount * currencies.commission * 10::numeric ^ decimals) / 10::numeric ^ decimals
END
"""

INSERT_DEPOSIT = """
WITH booked_order AS (
    INSERT INTO orders (id, user_id, fingerprint, status, accepted_at, posted_at)
    SELECT %(order_id)s, user_id, ''::bytea, 'posted', now(), now() FROM accounts WHERE id = %(account_id)s
), external AS (
    SELECT external.id FROM accounts AS external
    JOIN accounts AS own USING (currency_id)
    WHERE own.id = %(account_id)s AND external.id < 0
), booked AS (
    INSERT INTO transfers (order_id, kind, from_account_id, to_account_id, amount, comment)
    SELECT %(order_id)s, 'deposit', id, %(account_id)s, %(amount)s, 'Deposit' FROM external
)
UPDATE accounts SET amount = CASE WHEN id < 0 THEN amount - %(amount)s ELSE amount + %(amount)s END
WHERE id IN (SELECT id FROM external UNION ALL SELECT %(account_id)s)
"""


def as_owner(database_url: str) -> str:
    """Returns the URL for the role that owns the tables, where it is the service's, which may change little."""
    return make_dsn(database_url, user=OWNER) if parse_dsn(database_url)["user"] == SERVICE else database_url


def connect(database_url: str) -> psycopg2.extensions.connection:
    """Returns a session of its own, in which each statement is its own transaction, of an operator: `as_owner`."""
    connection = psycopg2.connect(as_owner(database_url), connect_timeout=5)
    connection.autocommit = True
    return connection


def query(database_url: str, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    """Executes one statement in a session of its own and returns its rows, if it has any."""
    connection = connect(database_url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


async def alter(database_url: str, sql: str) -> None:
    """Executes a command that waits for the locks of others, in a thread.

    A service in this process gives its locks up on the event loop: executed there, the command would wait for it until
    PostgreSQL ends the service's session.
    """
    await asyncio.to_thread(query, database_url, sql)


def value(database_url: str, sql: str, parameters: Any = None) -> Any:
    """Executes a statement that has one row of one column, and returns that."""
    [(only,)] = query(database_url, sql, parameters)
    return only


def count(database_url: str, table: str) -> int:
    """Returns how many rows the table has."""
    return int(value(database_url, f"SELECT count(*) FROM {table}"))


def counts(database_url: str) -> tuple[int, ...]:
    """Returns the sizes of everything that a request can add to, and the sum of the accounts' versions."""
    tables = ("users", "accounts", "orders", "transfers")
    versions = value(database_url, "SELECT sum(version)::bigint FROM accounts")
    return (*(count(database_url, table) for table in tables), versions)


def balance(database_url: str, account_id: int) -> Decimal:
    """Returns the account's balance."""
    return Decimal(value(database_url, "SELECT amount FROM accounts WHERE id = %s", (account_id,)))


def deposit(database_url: str, account_id: int, amount: str | Decimal) -> None:
    """Books money from outside: what an account needs before it can pay."""
    parameters = {"order_id": str(uuid4()), "account_id": account_id, "amount": Decimal(amount)}
    query(database_url, INSERT_DEPOSIT, parameters)


def assert_ledger_balances(database_url: str) -> None:
    """Asserts the ledger's invariants: whatever else happened, these hold.

    In each currency all balances sum to zero; each balance is the sum of its transfers; no ordinary account is
    negative; nothing crosses currencies; each payment bears exactly its commission.
    """
    assert query(database_url, UNBALANCED_CURRENCIES) == []
    assert query(database_url, ACCOUNTS_UNLIKE_THEIR_TRANSFERS) == []
    assert query(database_url, OVERDRAWN_ACCOUNTS) == []
    assert query(database_url, TRANSFERS_ACROSS_CURRENCIES) == []
    assert query(database_url, COMMISSIONS_UNLIKE_THE_RULE) == []
