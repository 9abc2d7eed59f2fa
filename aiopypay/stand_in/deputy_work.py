"""What the deputy has done in the store's thread."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from aiopypay.errors import NotKnownHere
from aiopypay.stand_in.acceptance import KEYS_COMPLETE, SECONDS_DOWN
from aiopypay.stand_in.identity import note_transfers
from aiopypay.stand_in.records import Entry
from aiopypay.stand_in.store import Store, StoreFailed
from aiopypay.store.accounts import AccountState
from aiopypay.store.orders import OrderRecord
from aiopypay.store.users import User

FILLED = "filled"
HOLDS_LEASE = "holds_lease"
NODES = "nodes"
INSTALLATION = "installation_id"


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether this node may stand in, as last heard from the database; kept over restarts."""

    installation_id: UUID | None
    holds_lease: bool
    nodes: int


def recall(store: Store) -> tuple[Standing, float, bool]:
    """Returns what an earlier run knew: the standing, for how long the database was away, whether all is filled."""
    installation = store.setting(INSTALLATION)
    standing = Standing(
        UUID(installation) if installation else None,
        store.setting(HOLDS_LEASE) == "yes",
        int(store.setting(NODES) or 1),
    )
    return standing, float(store.setting(SECONDS_DOWN) or 0), store.setting(FILLED) == "yes"


def users_by_name(store: Store, usernames: Sequence[str], filled: bool) -> dict[str, User | Exception | None]:
    """Returns each user by name, None for one who certainly does not exist, NotKnownHere for one who cannot be told."""
    return {name: _user(store, name, filled) for name in usernames}


def _user(store: Store, username: str, filled: bool) -> User | Exception | None:
    known = store.user_by_name(username)
    if store.is_uncertain(username) or (known is None and not filled):
        return NotKnownHere("The database is away, and this node does not know this user.")
    if known is None:
        return None
    return User(known.id, known.username, known.full_name, known.password_hash, known.is_admin, known.is_active)


def forget_memory(store: Store) -> None:
    """Forgets accounts and users, to be read anew."""
    with store.transaction(durable=True):
        store.forget_accounts()
        store.forget_users()
        store.set_setting(FILLED, "no")
        store.set_setting(KEYS_COMPLETE, "no")


def write_standing(store: Store, standing: Standing) -> None:
    """Keeps the standing over restarts."""
    with store.transaction(durable=True):
        store.set_setting(INSTALLATION, str(standing.installation_id))
        store.set_setting(HOLDS_LEASE, "yes" if standing.holds_lease else "no")
        store.set_setting(NODES, str(standing.nodes))


def write_plan(store: Store, entries: list[Entry]) -> None:
    """Keeps the plan of the batch about to be committed. Raises StoreFailed where the last one is still there."""
    if store.has_plan():
        raise StoreFailed("what the last batch booked could not be written")
    with store.transaction(durable=True):
        store.write_plan(entries)


def withdraw_plan(store: Store) -> None:
    """Drops the plan of a batch that was certainly not booked."""
    with store.transaction(durable=True):
        store.withdraw_plan()


def adopt_plan(store: Store) -> list[Entry]:
    """Moves the plan into the journal and returns its entries."""
    entries = store.plan()
    with store.transaction(durable=True):
        store.append(entries)
        store.withdraw_plan()
    return entries


def record(store: Store, accounts: Sequence[AccountState], records: Sequence[OrderRecord]) -> None:
    """Remembers what a batch has booked, and with it withdraws its plan."""
    with store.transaction(durable=False):
        store.withdraw_plan()
        store.remember_accounts(accounts)
        store.remember_orders(records)
        note_transfers(store, records)


def reset_seconds(store: Store) -> None:
    """The database is there again."""
    with store.transaction(durable=False):
        store.set_setting(SECONDS_DOWN, "0")
