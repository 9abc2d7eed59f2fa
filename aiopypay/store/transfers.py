"""The history of transfers, by keyset: an answer stays bounded however long the history is."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

import msgspec

from aiopypay.statements import Connection, fetch

Sort = Literal["asc", "dsc"]

# From each account of the user at most one page of ids in each direction, out of the index alone; then the rows of the
# first page of all that. A counterparty narrows it to transfers with one other user (or with oneself).
_SIDE = """
    (SELECT id
    FROM transfers
    WHERE {own}_account_id = account.id AND kind <> 'opening' AND id {beyond} %(after)s
    AND (
        %({other}_user_id)s::bigint IS NULL
        OR {other}_account_id = ANY(ARRAY(SELECT id FROM accounts WHERE user_id = %({other}_user_id)s))
    )
    ORDER BY id {direction} LIMIT %(limit)s)
"""

_PAGE = """
WITH page AS MATERIALIZED (
    SELECT DISTINCT found.id, decimals
    FROM accounts AS account
    JOIN currencies ON currencies.id = account.currency_id
    CROSS JOIN LATERAL ({sides}) AS found
    WHERE account.user_id = %(user_id)s
    ORDER BY found.id {direction}
    LIMIT %(limit)s
)
SELECT transfers.id, order_id, kind, "timestamp", from_account_id, to_account_id, amount, comment, decimals
FROM page
JOIN transfers ON transfers.id = page.id
ORDER BY page.id {direction}
"""

LARGEST_ID = 2**63 - 1


class TransferRow(msgspec.Struct, frozen=True, gc=False):
    """A transfer; `decimals` are its currency's. While its order is pending it has no id and no time."""

    id: int | None
    order_id: UUID
    kind: str
    timestamp: datetime | None
    from_account_id: int
    to_account_id: int
    amount: Decimal
    comment: str
    decimals: int


@dataclass(frozen=True, slots=True)
class Page:
    """Which transfers of a user: narrowed by the paying and the paid user, after a transfer id, at most `limit`."""

    user_id: int
    from_user_id: int | None
    to_user_id: int | None
    sort: Sort
    limit: int
    after: int | None


async def history(connection: Connection, page: Page) -> list[TransferRow]:
    """Returns one page of the transfers from or to the user, by id; opening credits are left out."""
    sql = _page_sql(page)
    if sql is None:
        return []
    first = 0 if page.sort == "asc" else LARGEST_ID
    parameters = {
        "user_id": page.user_id,
        "from_user_id": page.from_user_id,
        "to_user_id": page.to_user_id,
        "limit": page.limit,
        "after": first if page.after is None else page.after,
    }
    return [TransferRow(*row) for row in await fetch(connection, sql, parameters)]


def _page_sql(page: Page) -> str | None:
    """Returns the statement, None where the narrowing leaves nothing: neither side is the user."""
    words = {"asc": {"beyond": ">", "direction": "ASC"}, "dsc": {"beyond": "<", "direction": "DESC"}}[page.sort]
    sides = []
    if page.from_user_id in (None, page.user_id):
        sides.append(_SIDE.format(own="from", other="to", **words))
    if page.to_user_id in (None, page.user_id):
        sides.append(_SIDE.format(own="to", other="from", **words))
    if not sides:
        return None
    return _PAGE.format(sides="UNION ALL".join(sides), direction=words["direction"])
