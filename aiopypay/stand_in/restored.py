"""Who and what is who and what in a database that was put back from an older backup. Pure.

Numbers do not tell: after a restore they are given out anew. A user is recognised by id, name and the moment of the
registration; an account by id, currency, owner and the moment of its opening.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from aiopypay.ledger import Currency
from aiopypay.stand_in.records import AccountIdentity, Entry, Identities, KnownAccount, KnownUser, UserIdentity
from aiopypay.store.recreation import FoundAccount, FoundUser


@dataclass(slots=True)
class Recognised:
    """The ids that stand for the same in the database as in this node's memory. All others may be anybody's."""

    users: set[int] = field(default_factory=set)
    accounts: set[int] = field(default_factory=set)
    currencies: set[str] = field(default_factory=set)

    def lacks(self, user_id: int, account_ids: Iterable[int]) -> str | None:
        """Says what of an order is not recognised, None where all is."""
        if user_id not in self.users:
            return f"user {user_id} is not known to be the same in this database"
        other = next((account_id for account_id in account_ids if account_id not in self.accounts), None)
        return None if other is None else f"account {other} is not known to be the same in this database"


@dataclass(frozen=True, slots=True)
class SortedUsers:
    """Users of memory: who is not in the database, who is there as they were before, who is somebody else."""

    missing: Sequence[KnownUser]
    older: Sequence[KnownUser]
    strangers: Sequence[KnownUser]


@dataclass(frozen=True, slots=True)
class SortedAccounts:
    """Accounts of memory: which are not in the database, which are other ones there."""

    missing: Sequence[KnownAccount]
    strangers: Sequence[KnownAccount]


def sort_users(known: Sequence[KnownUser], found: Sequence[FoundUser]) -> SortedUsers:
    """Tells them apart. One whose id or name somebody else has is a stranger."""
    by_id = {user.id: user for user in found}
    names = {user.username.lower() for user in found}
    free = [user for user in known if user.id not in by_id and user.username.lower() not in names]
    same = [user for user in known if is_user(_identity_of_user(user), by_id.get(user.id))]
    recognised = {user.id for user in free} | {user.id for user in same}
    return SortedUsers(
        free,
        [user for user in same if by_id[user.id].version < user.version],
        [user for user in known if user.id not in recognised],
    )


def sort_accounts(
    known: Sequence[KnownAccount], found: Mapping[int, FoundAccount], recognised: Recognised
) -> SortedAccounts:
    """Tells apart accounts that have an owner. Those of somebody who is not recognised are not either."""
    theirs = [
        account
        for account in known
        if account.user_id in recognised.users and account.currency_id in recognised.currencies
    ]
    missing = [account for account in theirs if account.id not in found]
    same = {account.id for account in theirs if is_account(identity_of(account), found.get(account.id))}
    same |= {account.id for account in missing}
    return SortedAccounts(missing, [account for account in known if account.id not in same])


def same_currencies(known: Sequence[Currency], found: Sequence[Currency]) -> list[Currency]:
    """Returns those of the currencies of memory that have the same external and commission accounts there."""
    there = {(one.id, one.external_account_id, one.commission_account_id) for one in found}
    return [one for one in known if (one.id, one.external_account_id, one.commission_account_id) in there]


def misplaced(entry: Entry, users: Mapping[int, FoundUser], accounts: Mapping[int, FoundAccount]) -> str | None:
    """Says what of an entry of the journal is not, or is not the same, in the database; None where all is."""
    identities = entry.identities or Identities((), ())
    for user in identities.users:
        if not is_user(user, users.get(user.id)):
            return f"user {user.id} is not {user.username} in this database"
    for account in identities.accounts:
        if not is_account(account, accounts.get(account.id)):
            return f"account {account.id} is not the same in this database"
    known = {user.id for user in identities.users}, {account.id for account in identities.accounts}
    if entry.order.user_id not in known[0] or not known[1].issuperset(entry.order.account_ids):
        return "it is not known any more whom and what it named"
    return None


def is_user(identity: UserIdentity, found: FoundUser | None) -> bool:
    """Tells whether this is who is meant. Older stores do not know when somebody was registered."""
    return found is not None and found.username == identity.username and identity.created_at in (None, found.created_at)


def is_account(identity: AccountIdentity, found: FoundAccount | None) -> bool:
    """Tells whether this is the account that is meant."""
    return found is not None and identity == AccountIdentity(
        found.id, found.currency_id, found.created_at, found.user_id or 0
    )


def identity_of(account: KnownAccount) -> AccountIdentity:
    """Returns what an account with an owner is recognised by."""
    return AccountIdentity(account.id, account.currency_id, account.created_at, account.user_id or 0)


def _identity_of_user(user: KnownUser) -> UserIdentity:
    return UserIdentity(user.id, user.username, user.created_at)
