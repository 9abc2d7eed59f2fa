"""What a node does while online: shows that it is there, keeps or takes the lease, follows the other nodes."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from aiopypay import migrations
from aiopypay.database import Database
from aiopypay.errors import Problem, StandInFenced
from aiopypay.stand_in import pages
from aiopypay.stand_in.deputy import Deputy
from aiopypay.stand_in.elsewhere import ChangesElsewhere
from aiopypay.stand_in.identity import trouble_with
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.rates import Rates
from aiopypay.stand_in.records import KnownUser
from aiopypay.stand_in.store import Store
from aiopypay.statements import Connection
from aiopypay.store.accounts import AccountState
from aiopypay.store.installation import Lease, beat, has_others, register, remove
from aiopypay.store.orders import OrderRecord, find_orders

TURN_SECONDS = 1.0
RATES_TURNS = 10
PRUNE_TURNS = 60
# Of the journal's settled entries that are old, a turn; payments wait meanwhile.
PRUNED_AT_ONCE = 1_000
# What other nodes write becomes visible out of the order of ids and times: each turn looks back that far.
OVERLAP_IDS = 10_000
OVERLAP_ACCOUNTS = 500
OVERLAP = timedelta(seconds=10)
PAGE = 20_000
USERS_PAGE = 500
ACCOUNTS_OF_USER = 100
ORDERS_AT_ONCE = 2_000

logger = logging.getLogger(__name__)


class Keeper:
    """One turn a second, through a connection of requests: where the database is lost, it waits like they do."""

    def __init__(
        self,
        database: Database,
        node: Node,
        deputy: Deputy,
        *,
        rates: Rates,
        elsewhere: ChangesElsewhere,
        keep_days: int,
    ) -> None:
        self._database = database
        self._keep_days = keep_days
        self._rates = rates
        self._elsewhere = elsewhere
        self._turns = 0
        self._node = node
        self._deputy = deputy
        # The last transfer and account seen, and when, by the database's clock; None while no others are followed.
        self._seen: tuple[int, int, datetime] | None = None
        # The last user of a page behind which there are more, and when they were changed.
        self._users_seen: tuple[datetime, int] | None = None
        # That of the last turn: nothing was missed since unless the database was lost.
        self._epoch: int | None = None

    async def run(self) -> None:
        """Takes turns; never returns."""
        while True:
            await asyncio.sleep(TURN_SECONDS)
            if self._deputy.switch.is_up:
                try:
                    await self._take_turn()
                except Problem as problem:
                    logger.debug("The keeper skips a turn: %s", problem)
                except Exception:
                    logger.exception("The keeper skips a turn")

    async def _take_turn(self) -> None:
        self._turns += 1
        is_alone = self._deputy.standing.nodes <= 1
        await self.register()
        if self._node.fenced:
            await self._reopen()
        await self._elsewhere.follow()
        # Its own changes a node knows at once, but for what a connection that was lost brings to an end later.
        if not is_alone or self._turns % RATES_TURNS == 0:
            await self._rates.follow()
        await self._deputy.trim_orders()
        if self._turns % PRUNE_TURNS == 0:
            if self._node.fenced is None:
                self._node.post(_prune, datetime.now(UTC) - timedelta(days=self._keep_days))
            await self._elsewhere.prune()

    async def register(self) -> None:
        """Registers the node, takes the lease where it is free, and reads what others have changed.

        A database that is not the one this node knows, or has forgotten something, or is to be migrated first, counts
        as lost: recovery sees to it, or tells the operator. Raises what Database.transaction raises.
        """
        epoch = self._deputy.switch.epoch
        moments, lease = self._deputy.moments, None
        async with (
            moments.turn,
            moments.checked(self._database),
            self._database.transaction(by_statement=True) as connection,
        ):
            heartbeat = await beat(connection)
            self._deputy.owns_tables = heartbeat.owns_tables
            trouble = trouble_with(heartbeat, self._deputy.standing.installation_id)
            if trouble is None and heartbeat.newest_migration < migrations.newest():
                trouble = "migrations are outstanding"
            if trouble is None:
                await moments.look(connection)
                lease = await register(connection, self._node.node_id)
        if trouble is not None:
            self._deputy.switch.lost(trouble)
        if lease is not None:
            await self._note(heartbeat.installation_id, lease)
            self._epoch = epoch

    async def _reopen(self) -> None:
        """Where a full disk has room again: then what others have changed is read from where the disk has it, too."""
        await self._deputy.reopen()
        if not self._node.fenced:
            await self._elsewhere.recall()
            await self._elsewhere.follow(overlap=True)

    async def leave(self) -> None:
        """At a clean stop, takes this node from those that there are, and gives up its lease.

        A node that is alone stays, and keeps the lease: it must be able to start without the database. The lease is
        forgotten here first: were it kept here and given up there, two nodes could stand in at the next outage.
        """
        if self._deputy.standing.nodes <= 1:
            return
        try:
            async with self._database.transaction() as connection:
                if await has_others(connection, self._node.node_id):
                    await self._deputy.forget_lease()
                    await remove(connection, self._node.node_id)
        except Problem as problem:
            logger.warning("This node stays registered, with the stand-in lease if it held that: %s", problem)

    async def _note(self, installation_id: UUID, lease: Lease) -> None:
        """Notes what the database says. Where that lets this node do more, it first learns what others have changed.

        Otherwise one that has just become the only node, or the one that stands in, would count on what it last read.
        """
        if self._has_missed(lease):
            # A store that fails fences the node.
            with contextlib.suppress(StandInFenced):
                await self._deputy.forget_memory()
        elif lease.nodes > 1 or self._seen is not None:
            self._deputy.note_standing(installation_id, self._no_more_than_before(lease))
            while not await self._follow() and lease.nodes == 1:
                logger.debug("There is more that others have changed")
        self._deputy.note_standing(installation_id, lease)
        if lease.nodes == 1:
            self._seen = None

    def _has_missed(self, lease: Lease) -> bool:
        """Whether others may have changed something that this node has not followed."""
        before = self._deputy.standing
        was_away = self._epoch != self._deputy.switch.epoch
        came_and_went = lease.departures != before.departures
        return self._seen is None and (came_and_went or (was_away and max(lease.nodes, before.nodes) > 1))

    def _no_more_than_before(self, lease: Lease) -> Lease:
        """Returns the lease as it is, but that it is not this node's where it was not, and no node has gone."""
        before = self._deputy.standing
        is_new = lease.node_id == self._node.node_id and not before.holds_lease
        return replace(
            lease,
            node_id=None if is_new else lease.node_id,
            nodes=max(lease.nodes, before.nodes),
            departures=before.departures,
        )

    async def _follow(self) -> bool:
        """Remembers what the other nodes have changed: accounts and users by version, orders by id.

        Tells whether that was all.
        """
        changed = await self._deputy.moments.learn(self._database, self._changed, _remember)
        if changed is None:
            return False
        self._seen, self._users_seen = changed.position, changed.users_seen
        return changed.is_all

    async def _changed(self, connection: Connection) -> "_Changed":
        now = await pages.now(connection)
        last_ids = await pages.last_ids(connection)
        if self._seen is None:
            self._seen = (*last_ids, now)
        seen_transfer, seen_account, seen_at = self._seen
        after = max(0, seen_transfer - OVERLAP_IDS)
        orders, account_ids, last_transfer = await pages.transfers_after(connection, after, PAGE)
        since, user_id = self._users_seen or (seen_at - OVERLAP, 0)
        users, changed_at = await pages.users_changed(connection, since, user_id, USERS_PAGE)
        users_seen = (changed_at, users[-1].id) if len(users) == USERS_PAGE else None
        opened = await pages.accounts_after(connection, max(0, seen_account - OVERLAP_ACCOUNTS), PAGE)
        records = await _find_orders(connection, list(orders))
        accounts = opened + await pages.accounts_by_id(connection, list(account_ids))
        # What they have opened is the newest.
        accounts += await pages.newest_accounts_of_users(connection, [user.id for user in users], ACCOUNTS_OF_USER)
        last_account = max((account.id for account in opened), default=seen_account)
        # As long as there are more users, those of this turn count as changed since the same moment.
        position = max(seen_transfer, last_transfer), max(seen_account, last_account), seen_at if users_seen else now
        is_all = position[0] >= last_ids[0] and position[1] >= last_ids[1] and users_seen is None
        return _Changed(users, accounts, records, position, users_seen, is_all)


@dataclass(frozen=True, slots=True)
class _Changed:
    users: Sequence[KnownUser]
    accounts: Sequence[AccountState]
    orders: Sequence[OrderRecord]
    # The last transfer and account seen, and when.
    position: tuple[int, int, datetime]
    users_seen: tuple[datetime, int] | None
    is_all: bool


async def _find_orders(connection: Connection, order_ids: Sequence[UUID]) -> list[OrderRecord]:
    found: list[OrderRecord] = []
    for start in range(0, len(order_ids), ORDERS_AT_ONCE):
        found += (await find_orders(connection, order_ids[start : start + ORDERS_AT_ONCE])).values()
    return found


def _prune(store: Store, settled_before: datetime) -> None:
    with store.transaction(durable=False):
        store.prune(settled_before, PRUNED_AT_ONCE)


def _remember(store: Store, changed: _Changed) -> None:
    with store.transaction(durable=False):
        store.remember_users(changed.users)
        store.remember_accounts(changed.accounts)
        store.remember_orders(changed.orders)
