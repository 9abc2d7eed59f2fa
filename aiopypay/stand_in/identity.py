"""Whether the database is the one this node knows; and whom and what an order names, apart from their numbers."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from msgspec.structs import replace

from aiopypay.stand_in.records import Entry, Identities, KnownAccount, KnownUser, UserIdentity
from aiopypay.stand_in.restored import identity_of
from aiopypay.stand_in.store import Store
from aiopypay.store.installation import Heartbeat


def trouble_with(heartbeat: Heartbeat, installation_id: UUID | None) -> str | None:
    """Returns what is wrong with the database, None where nothing is.

    `installation_id` is the one this node has met (None: none yet).
    """
    if installation_id not in (None, heartbeat.installation_id):
        return (
            f"the database is installation {heartbeat.installation_id}, but this data directory belongs to "
            f"{installation_id}: connect the right database, or move the directory stand-in in it away"
        )
    return None


def identified(store: Store, entries: Sequence[Entry]) -> list[Entry]:
    """Returns the entries with whom and what they name, as far as that is remembered."""
    accounts = store.accounts({account_id for entry in entries for account_id in entry.order.account_ids})
    owners = {account.user_id for account in accounts.values() if account.user_id is not None}
    users = store.users(owners | {entry.order.user_id for entry in entries})
    return [replace(entry, identities=_identities(entry, accounts, users)) for entry in entries]


def _identities(entry: Entry, accounts: dict[int, KnownAccount], users: dict[int, KnownUser]) -> Identities:
    order = entry.order
    named = [identity_of(accounts[account_id]) for account_id in order.account_ids if account_id in accounts]
    user_ids = dict.fromkeys([order.user_id, *(account.user_id for account in named)])
    return Identities(tuple(_user_identities(user_ids, users)), tuple(named))


def _user_identities(user_ids: Iterable[int], users: dict[int, KnownUser]) -> Iterable[UserIdentity]:
    known = (users[user_id] for user_id in user_ids if user_id in users)
    return (UserIdentity(user.id, user.username, user.created_at) for user in known)
