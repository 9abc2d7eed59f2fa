"""Transfers as they are told."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

import msgspec

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
