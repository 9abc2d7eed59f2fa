"""What the node remembers, and what its journal holds."""

from datetime import datetime
from decimal import Decimal
from typing import Literal

import msgspec

from aiopypay.ledger import Transfer, TransferOrder

State = Literal["pending", "posted", "refused"]


class KnownAccount(msgspec.Struct, frozen=True, gc=False):
    """An account as PostgreSQL last told it, and what the journal has accepted on top.

    `amount` and `version` are the row's, and `amount` has what of the journal was settled since. `pending` is the sum
    of all changes by journal entries not yet settled, so that `amount` and `pending` together are the balance that is
    told; `debit` is the sum of their debits alone (positive). `held_credit` and `held_debit` (both positive) are the
    shares of held entries in `pending`. An account without `user_id` is external.
    """

    id: int
    user_id: int | None
    currency_id: str
    amount: Decimal
    version: int
    created_at: datetime
    updated_at: datetime | None
    pending: Decimal = Decimal(0)
    debit: Decimal = Decimal(0)
    held_credit: Decimal = Decimal(0)
    held_debit: Decimal = Decimal(0)


class KnownUser(msgspec.Struct, frozen=True, gc=False):
    """A user as PostgreSQL last told them; `version` is raised by every change there."""

    id: int
    username: str
    full_name: str
    password_hash: str
    is_admin: bool
    is_active: bool
    version: int
    # Older stores do not have it.
    deactivations: int = 0


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An order accepted without the database, or one whose batch was in doubt.

    `balance` is the expected one afterwards of the account that the receipt is about; `decimals` its currency's.
    `held`: it may have been booked before without this node being able to tell. What is told counts it as the new
    order that it most likely is; but until it is settled nobody can spend what it brings, and nobody is refused for
    what it takes.
    """

    order: TransferOrder
    transfers: tuple[Transfer, ...]
    balance: Decimal
    decimals: int
    in_doubt: bool = False
    held: bool = False


class JournalEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry with its place in the journal and its outcome, where it has one."""

    sequence: int
    entry: Entry
    state: State
    reason: str | None
    settled_at: datetime | None
