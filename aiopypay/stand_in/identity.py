"""Whether the database is the one this node knows; and whom and what an order names, apart from their numbers."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from msgspec.structs import replace

from aiopypay.ledger import TransferOrder
from aiopypay.stand_in.records import AccountIdentity, Entry, Identities, UserIdentity
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
    known = store.accounts({account_id for entry in entries for account_id in entry.order.account_ids})
    owners = {account.user_id for account in known.values() if account.user_id is not None}
    # A batch names few of them often.
    accounts = {account.id: identity_of(account) for account in known.values()}
    users = {
        user.id: UserIdentity(user.id, user.username, user.created_at)
        for user in store.users(owners | {entry.order.user_id for entry in entries}).values()
    }
    return [replace(entry, identities=_identities(entry.order, accounts, users)) for entry in entries]


def _identities(
    order: TransferOrder, accounts: Mapping[int, AccountIdentity], users: Mapping[int, UserIdentity]
) -> Identities:
    named = [accounts[account_id] for account_id in order.account_ids if account_id in accounts]
    user_ids = dict.fromkeys([order.user_id, *[account.user_id for account in named]])
    return Identities(tuple([users[user_id] for user_id in user_ids if user_id in users]), tuple(named))
