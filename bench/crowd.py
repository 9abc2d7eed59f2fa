"""Fills a migrated database with users, accounts and a history of payments, straight by SQL, as the service would.

Every trigger and foreign key does its work; in the end each balance is the sum of its transfers. The users have one
password in common, so that anyone of them can be logged in.
"""

from collections.abc import Sequence

from argon2 import PasswordHasher

from aiopypay import migrations
from aiopypay.passwords import LANES, MEMORY_KIB, PASSES
from bench.books import BOOKED, query
from bench.progress import doing, done
from bench.users import BenchUser, basic

PASSWORD = "correct horse battery staple"
# The first user after the superuser, and their dollar account: the contract names both. Each user has three accounts.
FIRST_USER, FIRST_ACCOUNT, ACCOUNTS_OF_A_USER = 2, 4, 3
# This share of the payments is the first user's: a history that is long enough to have a middle.
BUSY_SHARE = 0.01
PAYMENTS_AT_ONCE = 500_000

INSERT_USERS = """
INSERT INTO users (username, full_name, password_hash)
SELECT 'holder' || number, 'Holder', %(password_hash)s FROM generate_series(0, %(users)s - 1) AS number ORDER BY number
"""

INSERT_ACCOUNTS = """
INSERT INTO accounts (user_id, currency_id)
SELECT users.id, currencies.id FROM users CROSS JOIN currencies WHERE users.id > 1 ORDER BY users.id, ordinal
"""

# The opening balances, as of a sign-up credit.
INSERT_OPENINGS = """
WITH opened AS (
    INSERT INTO orders (id, user_id, fingerprint, status, accepted_at, posted_at)
    SELECT gen_random_uuid(), id, ''::BYTEA, 'posted', now(), now() FROM users WHERE id > 1
    RETURNING id, user_id
)
INSERT INTO transfers (order_id, kind, from_account_id, to_account_id, amount, comment)
SELECT opened.id, 'opening', -1, min(accounts.id), 1000000, 'Opening balance'
FROM opened JOIN accounts ON accounts.user_id = opened.user_id
GROUP BY opened.id
"""

INSERT_PAYMENTS = """
WITH payers AS MATERIALIZED (
    SELECT CASE WHEN random() < %(busy_share)s THEN 0 ELSE floor(random() * %(users)s)::BIGINT END AS payer
    FROM generate_series(1, %(payments)s)
), drawn AS MATERIALIZED (
    SELECT gen_random_uuid() AS order_id, payer,
        (payer + 1 + floor(random() * (%(users)s - 1))::BIGINT) %% %(users)s AS payee
    FROM payers
), booked AS (
    INSERT INTO orders (id, user_id, fingerprint, status, accepted_at, posted_at)
    SELECT order_id, %(first_user)s + payer, sha256(order_id::TEXT::BYTEA), 'posted', now(), now() FROM drawn
)
INSERT INTO transfers (order_id, kind, from_account_id, to_account_id, amount, comment)
SELECT order_id, kind, %(first_account)s + %(accounts_of_a_user)s * payer, to_account_id, amount, comment
FROM drawn
CROSS JOIN LATERAL (VALUES
    ('payment', %(first_account)s + %(accounts_of_a_user)s * payee, 1.00, 'External payment'),
    ('commission', 1, 0.01, 'Commission')
) AS transfer (kind, to_account_id, amount, comment)
"""

UPDATE_BALANCES = f"""
UPDATE accounts SET amount = booked.amount
FROM (
    {BOOKED}
) AS booked
WHERE accounts.id = booked.account_id
"""  # noqa: S608 - SQL of ours


def fill(dsn: str, users: int, transfers: int, *, service_role: str | None = None) -> None:
    """Migrates the database as its owner and fills it; of the transfers, `users` are the openings of accounts."""
    migrations.apply(dsn, service_role)
    hasher = PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES)
    doing(f"adding {users} users and {ACCOUNTS_OF_A_USER * users} accounts")
    query(dsn, INSERT_USERS, {"users": users, "password_hash": hasher.hash(PASSWORD)})
    query(dsn, INSERT_ACCOUNTS)
    query(dsn, INSERT_OPENINGS)
    booked = users
    while booked < transfers:
        payments = min(PAYMENTS_AT_ONCE, (transfers - booked + 1) // 2)
        query(dsn, INSERT_PAYMENTS, _draw(users, payments))
        booked += 2 * payments
        done(f"{booked} of {transfers} transfers are in the tables")
    doing("adding up the balances")
    query(dsn, UPDATE_BALANCES)
    query(dsn, "VACUUM ANALYZE")


def holders(users: int, number: int) -> Sequence[BenchUser]:
    """So many of the users, the busy one first, as far from each other as can be."""
    return [
        BenchUser(FIRST_USER + place, FIRST_ACCOUNT + ACCOUNTS_OF_A_USER * place, basic(f"holder{place}", PASSWORD))
        for place in range(0, users // number * number, users // number)
    ]


def _draw(users: int, payments: int) -> dict[str, object]:
    return {
        "users": users,
        "payments": payments,
        "busy_share": BUSY_SHARE,
        "first_user": FIRST_USER,
        "first_account": FIRST_ACCOUNT,
        "accounts_of_a_user": ACCOUNTS_OF_A_USER,
    }
