"""What the node remembers, and what its journal holds."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Literal

import msgspec

from aiopypay.ledger import Transfer, TransferOrder
from aiopypay.store.moments import Moment

# Unplaced: an older database was put in place, and whom or what the entry names is somebody or something else there.
State = Literal["pending", "posted", "refused", "unplaced"]


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
    # Older stores have neither.
    deactivations: int = 0
    created_at: datetime | None = None


class UserIdentity(msgspec.Struct, frozen=True, gc=False):
    """Who a user is, apart from the id, which may be somebody else's once a backup was restored."""

    id: int
    username: str
    created_at: datetime | None


class AccountIdentity(msgspec.Struct, frozen=True, gc=False):
    """Which account it is, apart from the id."""

    id: int
    currency_id: str
    created_at: datetime
    user_id: int


class Identities(msgspec.Struct, frozen=True, gc=False):
    """Whom and what an order names: the accounts, their owners, and who sent it; as far as they were known."""

    users: tuple[UserIdentity, ...]
    accounts: tuple[AccountIdentity, ...]


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An order accepted without the database, or one whose batch was in doubt.

    `balance` is the expected one afterwards of the account that the receipt is about; `decimals` its currency's.
    `held`: it may have been booked before without this node being able to tell. What is told counts it as the new
    order that it most likely is; but until it is settled nobody can spend what it brings, and nobody is refused for
    what it takes. `told`: its client may have been answered that it is accepted. Entries of older stores have no
    `identities`.
    """

    order: TransferOrder
    transfers: tuple[Transfer, ...]
    balance: Decimal
    decimals: int
    in_doubt: bool = False
    held: bool = False
    told: bool = True
    identities: Identities | None = None


class Plan(msgspec.Struct, frozen=True, gc=False):
    """A batch as it is about to be committed, and the moment that its COMMIT leads to (None: to none that is new)."""

    entries: Sequence[Entry]
    moment: Moment | None = None


class JournalEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry with its place in the journal and its outcome, where it has one."""

    sequence: int
    entry: Entry
    state: State
    reason: str | None
    settled_at: datetime | None
