"""What a node does while online: shows that it is there, keeps or takes the lease, follows the other nodes."""

import asyncio
import logging
from datetime import datetime, timedelta

from aiopypay import migrations
from aiopypay.database import Database
from aiopypay.errors import Problem
from aiopypay.stand_in import pages
from aiopypay.stand_in.deputy import Deputy
from aiopypay.stand_in.elsewhere import ChangesElsewhere
from aiopypay.stand_in.identity import trouble_with
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.rates import Rates
from aiopypay.stand_in.reads import Reads
from aiopypay.stand_in.records import KnownUser
from aiopypay.stand_in.store import Store
from aiopypay.store.accounts import AccountState
from aiopypay.store.installation import beat, register, release
from aiopypay.store.orders import OrderRecord, find_orders

TURN_SECONDS = 1.0
RATES_TURNS = 10
PRUNE_TURNS = 60
# What other nodes write becomes visible out of the order of ids and times: each turn looks back that far.
OVERLAP_IDS = 10_000
OVERLAP_ACCOUNTS = 500
OVERLAP = timedelta(seconds=10)
PAGE = 20_000

logger = logging.getLogger(__name__)


class Keeper:
    """One turn a second, through a connection of requests: where the database is lost, it waits like they do."""

    def __init__(
        self,
        database: Database,
        node: Node,
        deputy: Deputy,
        *,
        reads: Reads,
        rates: Rates,
        elsewhere: ChangesElsewhere,
    ) -> None:
        self._database = database
        self._reads = reads
        self._rates = rates
        self._elsewhere = elsewhere
        self._turns = 0
        self._node = node
        self._deputy = deputy
        # The last transfer and account seen, and when, by the database's clock.
        self._seen: tuple[int, int, datetime] | None = None

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
        await self._elsewhere.follow()
        # Its own changes a node knows at once, but for what a connection that was lost brings to an end later.
        if not is_alone or self._turns % RATES_TURNS == 0:
            await self._rates.follow()
        await self._deputy.trim_orders()
        if not is_alone:
            await self._follow()
        if self._turns % PRUNE_TURNS == 0:
            await self._elsewhere.prune()

    async def register(self) -> None:
        """Registers the node and takes the lease where it is free.

        A database that is not the one this node knows, or has forgotten something, or is to be migrated first, counts
        as lost: recovery sees to it, or tells the operator. Raises what Database.transaction raises.
        """
        known = await self._deputy.last_transfer()
        async with self._database.transaction() as connection:
            heartbeat = await beat(connection)
            trouble = trouble_with(heartbeat, self._deputy.standing.installation_id, known)
            lease = None if trouble else await register(connection, self._node.node_id)
        if trouble or heartbeat.newest_migration < migrations.newest():
            self._deputy.switch.lost(trouble or "migrations are outstanding")
        if lease is not None:
            self._deputy.note_standing(heartbeat.installation_id, lease)

    async def release(self) -> None:
        """Gives the lease up at a clean stop, as far as the database can be told. A node that is alone keeps it.

        Forgotten here first: were it kept here and given up there, two nodes could stand in at the next outage.
        """
        if self._deputy.standing.nodes <= 1:
            return
        try:
            await self._deputy.forget_lease()
            async with self._database.transaction() as connection:
                await release(connection, self._node.node_id)
        except Problem as problem:
            logger.warning("The stand-in lease is kept: %s", problem)

    async def _follow(self) -> None:
        """Remembers what the other nodes have changed: accounts and users by version, orders by id."""
        epoch = self._deputy.switch.epoch
        async with self._database.transaction() as connection:
            now = await pages.now(connection)
            if self._seen is None:
                self._seen = (*await pages.last_ids(connection), now)
            seen_transfer, seen_account, seen_at = self._seen
            after = max(0, seen_transfer - OVERLAP_IDS)
            orders, account_ids, last_transfer = await pages.transfers_after(connection, after, PAGE)
            users = await pages.users_changed(connection, seen_at - OVERLAP)
            opened = await pages.accounts_after(connection, max(0, seen_account - OVERLAP_ACCOUNTS), PAGE)
            records = await find_orders(connection, list(orders))
            accounts = opened + await pages.accounts_by_id(connection, list(account_ids))
            accounts += await pages.accounts_of_users(connection, [user.id for user in users])
        if await self._reads.remember(epoch, _remember, users, accounts, list(records.values())):
            last_account = max((account.id for account in opened), default=seen_account)
            self._seen = (max(seen_transfer, last_transfer), max(seen_account, last_account), now)


def _remember(store: Store, users: list[KnownUser], accounts: list[AccountState], records: list[OrderRecord]) -> None:
    with store.transaction(durable=False):
        store.remember_users(users)
        store.remember_accounts(accounts)
        store.remember_orders(records)
