"""The history of transfers, by keyset: an answer, and each statement, stays bounded however long the history is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aiopypay.statements import Connection, fetch
from aiopypay.store.transfers import LARGEST_ID, TransferRow

Sort = Literal["asc", "dsc"]
Side = Literal["from", "to"]

# Of a user. Who has more, from before there was a limit, is read by so many.
ACCOUNTS_AT_ONCE = 500
# Of what a user has paid or got, looked through for one other user.
LOOKED_THROUGH = 60_000

# Of all statements of a page one is the first, and all see what it sees: were later ones to see more, a page might end
# behind a transfer of an account that was opened after the first.
SELECT_ACCOUNTS = """
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;
SELECT id FROM accounts WHERE user_id = %(user_id)s AND id > %(after)s ORDER BY user_id, id LIMIT %(limit)s
"""

# From each account at most one page of ids in each direction, out of the index alone; then the rows of the first page
# of all that.
_SIDE = """
    (SELECT id
    FROM transfers
    WHERE {side}_account_id = account.id AND kind <> 'opening' AND id {beyond} %(after)s
    ORDER BY id {direction} LIMIT %(limit)s)
"""
SELECT_PAGE = """
WITH page AS MATERIALIZED (
    SELECT DISTINCT found.id
    FROM unnest(%(account_ids)s::bigint[]) AS account (id)
    CROSS JOIN LATERAL ({sides}) AS found
    ORDER BY found.id {direction}
    LIMIT %(limit)s
)
SELECT transfers.id, transfers.order_id, kind, "timestamp", from_account_id, to_account_id, transfers.amount, comment,
    decimals
FROM page
JOIN transfers ON transfers.id = page.id
JOIN accounts ON accounts.id = transfers.to_account_id
JOIN currencies ON currencies.id = accounts.currency_id
"""

# Between two users so much is looked through of each account of the one, for accounts of the other. Behind the first
# end of that, the horizon, nothing is certain yet. A row without a transfer tells of it where none was found.
SELECT_PAGE_BETWEEN = """
WITH seen AS MATERIALIZED (
    SELECT account.id AS account_id, found.id, found.other_id
    FROM unnest(%(account_ids)s::bigint[]) AS account (id)
    CROSS JOIN LATERAL (
        SELECT id, {other}_account_id AS other_id
        FROM transfers
        WHERE {side}_account_id = account.id AND kind <> 'opening' AND id {beyond} %(after)s
        ORDER BY id {direction} LIMIT %(looked_through)s
    ) AS found
), horizon AS MATERIALIZED (
    SELECT {nearest}(furthest) AS id
    FROM (
        SELECT {furthest}(id) AS furthest FROM seen GROUP BY account_id HAVING count(*) = %(looked_through)s
    ) AS ends
), page AS MATERIALIZED (
    SELECT seen.id
    FROM seen
    CROSS JOIN horizon
    WHERE (horizon.id IS NULL OR NOT seen.id {beyond} horizon.id)
    AND EXISTS (SELECT FROM accounts WHERE accounts.id = seen.other_id AND accounts.user_id = %(other_user_id)s)
    ORDER BY seen.id {direction}
    LIMIT %(limit)s
)
SELECT horizon.id, transfers.id, transfers.order_id, kind, "timestamp", from_account_id, to_account_id,
    transfers.amount, comment, decimals
FROM horizon
LEFT JOIN page ON TRUE
LEFT JOIN transfers ON transfers.id = page.id
LEFT JOIN accounts ON accounts.id = transfers.to_account_id
LEFT JOIN currencies ON currencies.id = accounts.currency_id
"""

_WORDS = {
    "asc": {"beyond": ">", "direction": "ASC", "nearest": "min", "furthest": "max"},
    "dsc": {"beyond": "<", "direction": "DESC", "nearest": "max", "furthest": "min"},
}


@dataclass(frozen=True, slots=True)
class Page:
    """Which transfers of a user: narrowed by the paying and the paid user, after a transfer id, at most `limit`."""

    user_id: int
    from_user_id: int | None
    to_user_id: int | None
    sort: Sort
    limit: int
    after: int | None


@dataclass(frozen=True, slots=True)
class _Found:
    """The first transfers, one more than a page, of all up to the horizon; of all that there are where it is None."""

    rows: Sequence[TransferRow]
    horizon: int | None = None


async def history(connection: Connection, page: Page) -> tuple[list[TransferRow], int | None]:
    """Returns one page of the transfers from or to the user, by id, and after which the next one is (None: the last).

    Opening credits are left out. Narrowed to two users, a page may hold fewer than `limit`, none even, and yet not be
    the last: only so much is looked through at once. Several statements, each of which is bounded, and before which
    there are none in the transaction.
    """
    user_id, payer, payee = page.user_id, page.from_user_id, page.to_user_id
    payer_is_user, payee_is_user = payer in (None, user_id), payee in (None, user_id)
    if not payer_is_user and not payee_is_user:
        return [], None
    if payer is None and payee is None:
        return _cut(await _of_user(connection, page, ("from", "to")), page)
    if payee is None and payer_is_user:
        return _cut(await _of_user(connection, page, ("from",)), page)
    if payer is None and payee_is_user:
        return _cut(await _of_user(connection, page, ("to",)), page)
    if payee_is_user and payer is not None:
        return _cut(await _between(connection, page, "to", payer), page)
    assert payee is not None  # noqa: S101 - all others are above
    return _cut(await _between(connection, page, "from", payee), page)


async def _of_user(connection: Connection, page: Page, sides: Sequence[Side]) -> _Found:
    words = _WORDS[page.sort]
    sql = SELECT_PAGE.format(sides="UNION ALL".join(_SIDE.format(side=side, **words) for side in sides), **words)
    rows: list[TransferRow] = []
    account_ids = await _accounts(connection, page.user_id, 0)
    while account_ids:
        found = await fetch(connection, sql, {**_bounds(page), "account_ids": account_ids})
        rows = _sorted(rows + [TransferRow(*row) for row in found], page)
        account_ids = await _following(connection, page.user_id, account_ids)
    return _Found(rows)


async def _between(connection: Connection, page: Page, side: Side, other_user_id: int) -> _Found:
    """Looks through what the other user has on the other side, too, where that is not all of it either.

    Mostly one of the two has much less: who pays is not the one whom all pay.
    """
    other_side: Side = "from" if side == "to" else "to"
    others = await _accounts(connection, other_user_id, 0)
    found = _Found([])
    if len(others) < ACCOUNTS_AT_ONCE:
        found = await _looked_through(connection, page, other_side, others, page.user_id)
        if found.horizon is None or len(found.rows) > page.limit:
            return found
    own = await _looked_through_all(connection, page, side, other_user_id)
    if own.horizon is None or found.horizon is None:
        return own
    return max(found, own, key=lambda one: (one.horizon or 0) * (1 if page.sort == "asc" else -1))


async def _looked_through_all(connection: Connection, page: Page, side: Side, other_user_id: int) -> _Found:
    rows: list[TransferRow] = []
    horizons: list[int] = []
    account_ids = await _accounts(connection, page.user_id, 0)
    while account_ids:
        found = await _looked_through(connection, page, side, account_ids, other_user_id)
        rows += found.rows
        horizons += [] if found.horizon is None else [found.horizon]
        account_ids = await _following(connection, page.user_id, account_ids)
    if not horizons:
        return _Found(_sorted(rows, page))
    horizon = min(horizons) if page.sort == "asc" else max(horizons)
    return _Found(_sorted([row for row in rows if _is_within(row, horizon, page)], page), horizon)


async def _looked_through(
    connection: Connection, page: Page, side: Side, account_ids: Sequence[int], other_user_id: int
) -> _Found:
    other: Side = "from" if side == "to" else "to"
    sql = SELECT_PAGE_BETWEEN.format(side=side, other=other, **_WORDS[page.sort])
    parameters = {
        **_bounds(page),
        "account_ids": list(account_ids),
        "other_user_id": other_user_id,
        "looked_through": LOOKED_THROUGH // max(1, len(account_ids)),
    }
    rows = await fetch(connection, sql, parameters)
    return _Found(_sorted([TransferRow(*row[1:]) for row in rows if row[1] is not None], page), rows[0][0])


async def _accounts(connection: Connection, user_id: int, after: int) -> list[int]:
    parameters = {"user_id": user_id, "after": after, "limit": ACCOUNTS_AT_ONCE}
    return [row[0] for row in await fetch(connection, SELECT_ACCOUNTS, parameters)]


async def _following(connection: Connection, user_id: int, account_ids: Sequence[int]) -> list[int]:
    return await _accounts(connection, user_id, account_ids[-1]) if len(account_ids) == ACCOUNTS_AT_ONCE else []


def _bounds(page: Page) -> dict[str, object]:
    # One more than a page, to know whether there is another.
    first = 0 if page.sort == "asc" else LARGEST_ID
    return {"limit": page.limit + 1, "after": first if page.after is None else page.after}


def _sorted(rows: list[TransferRow], page: Page) -> list[TransferRow]:
    """One transfer may have been found from both of its accounts."""
    distinct = {row.id or 0: row for row in rows}
    return [distinct[row_id] for row_id in sorted(distinct, reverse=page.sort == "dsc")][: page.limit + 1]


def _is_within(row: TransferRow, horizon: int, page: Page) -> bool:
    return (row.id or 0) <= horizon if page.sort == "asc" else (row.id or 0) >= horizon


def _cut(found: _Found, page: Page) -> tuple[list[TransferRow], int | None]:
    rows = list(found.rows[: page.limit])
    return rows, rows[-1].id if len(found.rows) > page.limit else found.horizon
