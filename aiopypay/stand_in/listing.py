"""The journal as the operator reads it."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

import msgspec

from aiopypay.money import in_decimals
from aiopypay.stand_in.records import JournalEntry, State
from aiopypay.stand_in.store import Store

PAGE = 500


class JournalLine(msgspec.Struct):
    """One entry; `amount` is in the currency of the account."""

    sequence: int
    state: str
    order_id: UUID
    user_id: int
    from_account_id: int
    to_account_id: int
    amount: Decimal
    accepted_at: datetime
    settled_at: datetime | None
    in_doubt: bool
    reason: str | None


def journal_page(store: Store, state: State | None, after_sequence: int) -> list[JournalLine]:
    """Returns the next entries in this state (None: in any), oldest first."""
    return [_line(entry) for entry in store.entries(state, PAGE, after_sequence)]


def _line(entry: JournalEntry) -> JournalLine:
    order = entry.entry.order
    assert order.accepted_at is not None  # noqa: S101 - every entry of the journal has it
    return JournalLine(
        sequence=entry.sequence,
        state=entry.state,
        order_id=order.id,
        user_id=order.user_id,
        from_account_id=order.from_account_id,
        to_account_id=order.to_account_id,
        amount=in_decimals(order.amount, entry.entry.decimals),
        accepted_at=order.accepted_at,
        settled_at=entry.settled_at,
        in_doubt=entry.entry.in_doubt,
        reason=entry.reason,
    )
