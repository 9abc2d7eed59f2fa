"""The SQL of orders: what locks, what looks up, what writes. PostgreSQL plans each once a connection."""

from aiopypay.statements import Statement

# NO KEY UPDATE is what an UPDATE of the balance takes itself. In id order, so that two batches cannot lock each other
# out. The node's moment is locked on the way: no row, where it has none; one without an account, where none is found.
LOCK_ACCOUNTS = Statement(
    "lock_accounts",
    ("ids", "node_id"),
    """
WITH moment AS MATERIALIZED (
    SELECT count, token FROM moments WHERE node_id = $2::uuid FOR UPDATE
), locked AS MATERIALIZED (
SELECT account.id, account.user_id, account.currency_id, account.amount,
    currency.description, currency.commission, currency.decimals,
    currency.commission_account_id, currency.external_account_id
FROM accounts AS account
JOIN (
    SELECT currencies.id, description, commission, decimals,
        min(accounts.id) FILTER (WHERE accounts.id > 0) AS commission_account_id,
        min(accounts.id) FILTER (WHERE accounts.id < 0) AS external_account_id
    FROM currencies
    JOIN accounts ON accounts.currency_id = currencies.id AND (accounts.user_id = 1 OR accounts.id < 0)
    GROUP BY currencies.id
    HAVING min(accounts.id) < 0 AND max(accounts.id) > 0
) AS currency ON currency.id = account.currency_id
WHERE account.id = ANY($1::bigint[]) AND account.user_id IS NOT NULL
ORDER BY account.id
FOR NO KEY UPDATE OF account
)
SELECT moment.count, moment.token, locked.*
FROM moment
LEFT JOIN locked ON TRUE
""",
)

LOCK_FREE_ACCOUNTS = """
SELECT id FROM accounts WHERE id = ANY(%(ids)s) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
"""

# Of the orders between each two ids the first: they were sent together, and which of them it is does not matter.
SELECT_ORDERS = Statement(
    "select_orders",
    ("ids", "lowest", "highest"),
    """
SELECT orders.id, orders.user_id, fingerprint, status, accepted_at, posted_at, reason, balance, idempotency_key,
    transfers.id, kind, "timestamp", from_account_id, to_account_id, transfers.amount, comment, decimals
FROM orders
LEFT JOIN transfers ON transfers.order_id = orders.id
LEFT JOIN accounts ON accounts.id = to_account_id
LEFT JOIN currencies ON currencies.id = accounts.currency_id
WHERE orders.id = ANY(
    $1::uuid[] || ARRAY(
        SELECT (SELECT id FROM orders WHERE id BETWEEN places.lowest AND places.highest ORDER BY id LIMIT 1)
        FROM unnest($2::uuid[], $3::uuid[]) AS places (lowest, highest)
    )
)
ORDER BY transfers.id
""",
)

# Changes are relative: the commission and external accounts were not read. They are locked here, at last and in id
# order, the external ones behind all others: whoever holds one of those waits for no account with an owner.
# The first row holds what was booked, the others the accounts as it left them.
INSERT_ORDERS = Statement(
    "insert_orders",
    (
        *("order_ids", "user_ids", "keys", "fingerprints", "accepted_at", "balances"),
        *("places", "kinds", "from_ids", "to_ids", "amounts", "comments"),
        *("changed_ids", "changes"),
        *("node_id", "moment_count", "moment_token"),
    ),
    """
WITH booked_orders AS (
    INSERT INTO orders
        (id, user_id, idempotency_key, fingerprint, status, accepted_at, posted_at, balance)
    SELECT id, user_id, idempotency_key, fingerprint, 'posted', coalesce(accepted_at, now()), now(), balance
    FROM unnest(
        $1::uuid[], $2::bigint[], $3::text[], $4::bytea[], $5::timestamptz[], $6::numeric[]
    ) AS planned (id, user_id, idempotency_key, fingerprint, accepted_at, balance)
), booked AS (
    INSERT INTO transfers (order_id, kind, from_account_id, to_account_id, amount, comment)
    SELECT ($1::uuid[])[place], kind, from_account_id, to_account_id, amount, comment
    FROM unnest(
        $7::integer[], $8::text[], $9::bigint[], $10::bigint[], $11::numeric[], $12::text[]
    ) WITH ORDINALITY AS planned (place, kind, from_account_id, to_account_id, amount, comment, ordinal)
    ORDER BY ordinal
    RETURNING id
), locked AS (
    SELECT id FROM accounts WHERE id = ANY($13::bigint[]) ORDER BY id < 0, id FOR NO KEY UPDATE
), changed AS (
    UPDATE accounts SET amount = accounts.amount + change.amount
    FROM unnest($13::bigint[], $14::numeric[]) AS change (id, amount)
    JOIN locked ON locked.id = change.id
    WHERE accounts.id = change.id
    RETURNING accounts.id, user_id, currency_id, accounts.amount, version, created_at, updated_at
), moved AS (
    UPDATE moments SET count = $16::bigint, token = $17::uuid, written_at = now()
    WHERE node_id = $15::uuid AND $17::uuid IS NOT NULL
)
SELECT NULL::bigint AS id, NULL AS user_id, NULL AS currency_id, NULL AS amount, NULL AS version,
    NULL AS created_at, now() AS updated_at, array_agg(id ORDER BY id) AS transfer_ids
FROM booked
UNION ALL
SELECT id, user_id, currency_id, amount, version, created_at, updated_at, NULL FROM changed
""",
)

INSERT_REFUSALS = """
INSERT INTO orders (id, user_id, idempotency_key, fingerprint, status, accepted_at, reason)
SELECT id, user_id, idempotency_key, fingerprint, 'refused', coalesce(accepted_at, now()), reason
FROM unnest(
    %(order_ids)s::uuid[], %(user_ids)s::bigint[], %(keys)s::text[], %(fingerprints)s::bytea[],
    %(accepted_at)s::timestamptz[], %(reasons)s::text[]
) AS refused (id, user_id, idempotency_key, fingerprint, accepted_at, reason)
"""

SELECT_ACCOUNTS = """
SELECT id, user_id, currency_id, amount, version, created_at, updated_at
FROM accounts WHERE id = ANY(%(ids)s)
"""

INSERT_KEYED_ORDER = """
INSERT INTO orders (id, user_id, idempotency_key, fingerprint, status, accepted_at, posted_at)
VALUES (%(id)s, %(user_id)s, %(key)s, %(fingerprint)s, 'posted', now(), now())
ON CONFLICT (id) DO NOTHING
RETURNING id
"""
