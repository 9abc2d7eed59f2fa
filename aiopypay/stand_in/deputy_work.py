"""What the deputy has done in the store's thread."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from msgspec.structs import replace

from aiopypay.errors import NotKnownHere
from aiopypay.stand_in.acceptance import KEYS_COMPLETE, SECONDS_DOWN
from aiopypay.stand_in.identity import identified
from aiopypay.stand_in.moments_on_disk import note_moments, record_moment
from aiopypay.stand_in.records import Entry, KnownAccount, KnownUser, Plan
from aiopypay.stand_in.store import Store, StoreFailed
from aiopypay.store.accounts import AccountState
from aiopypay.store.moments import Moment
from aiopypay.store.orders import OrderRecord
from aiopypay.store.users import User

FILLED = "filled"
HOLDS_LEASE = "holds_lease"
NODES = "nodes"
DEPARTURES = "departures"
INSTALLATION = "installation_id"
# For what the store's log may grow by before it is folded.
ROOM_BYTES = 32 * 1024**2


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether this node may stand in, as last heard from the database; kept over restarts.

    `departures`: how many nodes had been removed from it by then.
    """

    installation_id: UUID | None
    holds_lease: bool
    nodes: int
    departures: int = 0


def recall(store: Store) -> tuple[Standing, float, bool]:
    """Returns what an earlier run knew: the standing, for how long the database was away, whether all is filled."""
    installation = store.setting(INSTALLATION)
    standing = Standing(
        UUID(installation) if installation else None,
        store.setting(HOLDS_LEASE) == "yes",
        int(store.setting(NODES) or 1),
        int(store.setting(DEPARTURES) or 0),
    )
    return standing, float(store.setting(SECONDS_DOWN) or 0), store.setting(FILLED) == "yes"


def users_by_name(store: Store, usernames: Sequence[str], filled: bool) -> dict[str, User | Exception | None]:
    """Returns each user by name, None for one who certainly does not exist, NotKnownHere for one who cannot be told."""
    known, uncertain = store.users_by_name(usernames), store.uncertain_names(usernames)
    changed = store.changed_users(user.id for user in known.values())
    uncertain |= {name for name, user in known.items() if user.id in changed}
    # Whoever is not known may be one whom others have added, or given another name.
    knows_all = filled and not store.has_changed("users")
    return {
        name: NotKnownHere("The database is away, and this node does not know this user as they are.")
        if name in uncertain or (name not in known and not knows_all)
        else as_user(known[name])
        if name in known
        else None
        for name in usernames
    }


def as_user(known: KnownUser) -> User:
    """Returns a user as the database has them."""
    return User(
        known.id,
        known.username,
        known.full_name,
        known.password_hash,
        known.is_admin,
        known.is_active,
        known.deactivations,
    )


def as_state(known: KnownAccount) -> AccountState:
    """Returns an account as the database last told it."""
    return AccountState(
        known.id,
        known.user_id,
        known.currency_id,
        known.amount,
        known.version,
        known.created_at,
        known.updated_at,
    )


def forget_memory(store: Store) -> None:
    """Forgets accounts and users, to be read anew."""
    with store.transaction(durable=True):
        store.forget_accounts()
        store.forget_users()
        store.set_setting(FILLED, "no")
        store.set_setting(KEYS_COMPLETE, "no")


def has_room(store: Store, *, with_plans: bool) -> bool:
    """Tells whether a disk that was full has room again; `with_plans`: also where plans are on it."""
    return store.free_bytes() >= ROOM_BYTES and (with_plans or not store.plans())


def begin_anew(store: Store, standing: Standing, keep_moments: Callable[[Store], None]) -> None:
    """After a full disk, online: does as a start does whose mark is gone, and writes what could not be written."""
    drop_plans(store)
    write_again(store, standing, keep_moments)


def write_again(store: Store, standing: Standing, keep_moments: Callable[[Store], None]) -> None:
    """Writes what a full disk may not have taken. Of the moments nothing may be missing, or the database is another."""
    keep_moments(store)
    write_standing(store, standing)


def write_standing(store: Store, standing: Standing) -> None:
    """Keeps the standing over restarts."""
    with store.transaction(durable=True):
        store.set_setting(INSTALLATION, str(standing.installation_id))
        store.set_setting(HOLDS_LEASE, "yes" if standing.holds_lease else "no")
        store.set_setting(NODES, str(standing.nodes))
        store.set_setting(DEPARTURES, str(standing.departures))


@dataclass(frozen=True, slots=True)
class Booked:
    """What a batch has booked: the accounts as it left them, its orders, the number of its plan, and its moment."""

    plan: int
    moment: Moment | None
    accounts: Sequence[AccountState]
    records: Sequence[OrderRecord]


def write_plan(store: Store, number: int, plan: Plan) -> None:
    """Keeps the plan of the batch about to be committed."""
    with store.transaction(durable=True):
        store.write_plan(number, plan)


def withdraw_plan(store: Store, number: int) -> None:
    """Drops the plan of a batch that was certainly not booked; a full disk has not taken it in the first place."""
    if store.is_unsure or store.has_plan(number):
        with store.transaction(durable=True):
            store.withdraw_plans([number])


def adopt_plans(store: Store, *, told: bool = True) -> list[Entry]:
    """Moves all plans into the journal, in their order, and returns their entries. Their moments stay in doubt.

    Not what the journal holds: an order that was settled, and sent again to a database restored from an older backup.
    `told`: their clients are about to hear that they are accepted.
    """
    plans = store.plans()
    planned = [entry for plan in plans.values() for entry in plan.entries]
    held = store.entries_of([entry.order.id for entry in planned])
    fresh = [replace(entry, told=told) for entry in planned if entry.order.id not in held]
    entries = identified(store, fresh)
    with store.transaction(durable=True):
        store.append(entries)
        store.withdraw_plans(plans)
        note_moments(store, [plan.moment for plan in plans.values() if plan.moment is not None])
    return entries


def drop_plans(store: Store) -> None:
    """Drops all plans: a disk failed under them, and what became of their batches was found out, or told as unknown.

    Their moments stay in doubt.
    """
    plans = store.plans()
    if plans:
        with store.transaction(durable=True):
            store.withdraw_plans(plans)
            note_moments(store, [plan.moment for plan in plans.values() if plan.moment is not None])


def record(store: Store, batches: Sequence[Booked]) -> None:
    """Remembers what batches have booked, in their order, and with it withdraws their plans."""
    records = [record for booked in batches for record in booked.records]
    moments = [booked.moment for booked in batches if booked.moment is not None]
    with store.transaction(durable=False):
        store.withdraw_plans([booked.plan for booked in batches])
        store.remember_accounts([account for booked in batches for account in booked.accounts])
        store.remember_orders(records)
        if moments:
            record_moment(store, moments[-1])


def trim_orders(store: Store) -> bool:
    """Drops some of the orders of which too many are remembered; tells whether there are more.

    A disk that is full may keep them: nothing is lost by it.
    """
    try:
        if store.has_excess_orders():
            with store.transaction(durable=False):
                store.trim_orders()
    except StoreFailed:
        return False
    return store.has_excess_orders()


def write_seconds(store: Store, seconds: float) -> None:
    """Keeps over restarts for how long the database has been away; 0 where it is there again.

    A disk that is full costs some of the count, and not the stand-in: the next to order will find out.
    """
    with suppress(StoreFailed), store.transaction(durable=False):
        store.set_setting(SECONDS_DOWN, str(seconds))
