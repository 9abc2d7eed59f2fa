"""Looks into the database: are the books right?"""

from typing import Any

import psycopg2

from bench.errors import BenchError

SUM_OF_BALANCES = "SELECT currency_id, sum(amount) FROM accounts GROUP BY currency_id HAVING sum(amount) <> 0"
# By account, what was booked.
BOOKED = """
    SELECT account_id, sum(amount) AS amount
    FROM (
        SELECT to_account_id AS account_id, amount FROM transfers
        UNION ALL
        SELECT from_account_id, -amount FROM transfers
    ) AS changes
    GROUP BY account_id
"""
BALANCES_ASTRAY = f"""
SELECT id, accounts.amount, coalesce(booked.amount, 0)
FROM accounts
LEFT JOIN (
    {BOOKED}
) AS booked ON booked.account_id = accounts.id
WHERE accounts.amount <> coalesce(booked.amount, 0)
LIMIT 10
"""  # noqa: S608 - SQL of ours
REFUSED = "SELECT id, reason FROM orders WHERE status = 'refused' LIMIT 10"
COMPLAINTS = {
    "balances do not sum to zero": SUM_OF_BALANCES,
    "balances are not the sums of their transfers": BALANCES_ASTRAY,
    "orders were refused at settling": REFUSED,
}


def check(dsn: str) -> None:
    """Raises `BenchError` unless balances sum to zero, are what was booked, and nothing accepted was refused."""
    for complaint, sql in COMPLAINTS.items():
        if astray := query(dsn, sql):
            raise BenchError(f"{complaint}: {astray}")


def query(dsn: str, sql: str, parameters: dict[str, object] | None = None) -> list[tuple[Any, ...]]:
    """Runs a statement in a transaction of its own and returns its rows."""
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()
