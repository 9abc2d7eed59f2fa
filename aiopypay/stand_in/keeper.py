"""What a node does while online: shows that it is there, keeps or takes the lease, follows the other nodes."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from uuid import UUID

from aiopypay.database import Database
from aiopypay.errors import Problem, StartError
from aiopypay.stand_in import pages
from aiopypay.stand_in.deputy import Deputy
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.reads import Reads
from aiopypay.stand_in.records import KnownUser
from aiopypay.stand_in.store import Store
from aiopypay.store.accounts import AccountState
from aiopypay.store.installation import beat, register, release
from aiopypay.store.orders import OrderRecord, find_orders

TURN_SECONDS = 1.0
# Transfers of other nodes become visible out of the order of their ids: each turn looks back that far.
OVERLAP_TRANSFERS = 2_000
OVERLAP = timedelta(seconds=10)
PAGE = 5_000

logger = logging.getLogger(__name__)


class Keeper:
    """One turn a second, through a connection of requests: where the database is lost, it waits like they do."""

    def __init__(self, database: Database, node: Node, deputy: Deputy, reads: Reads) -> None:
        self._database = database
        self._reads = reads
        self._node = node
        self._deputy = deputy
        self._seen_transfer: int | None = None
        self._seen_at = datetime.now(UTC)

    async def run(self) -> None:
        """Takes turns; never returns."""
        while True:
            await asyncio.sleep(TURN_SECONDS)
            if self._deputy.switch.is_up:
                try:
                    await self.register()
                    if self._deputy.standing.nodes > 1:
                        await self._follow()
                except Problem as problem:
                    logger.debug("The keeper skips a turn: %s", problem)
                except Exception:
                    logger.exception("The keeper skips a turn")

    async def register(self) -> None:
        """Registers the node and takes the lease where it is free. Raises DatabaseUnavailable."""
        async with self._database.transaction() as connection:
            heartbeat = await beat(connection)
            self._check(heartbeat.installation_id)
            lease = await register(connection, self._node.node_id)
        self._deputy.note_standing(heartbeat.installation_id, lease)

    def _check(self, installation_id: UUID) -> None:
        ours = self._deputy.standing.installation_id
        if ours not in (None, installation_id):
            raise StartError(
                f"the database is installation {installation_id}, but this data directory belongs to {ours}: connect "
                "the right database, or move the directory stand-in in it away"
            )

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
        """Remembers what the other nodes have changed: accounts by version, users by the time of their change."""
        epoch = self._deputy.switch.epoch
        started = datetime.now(UTC)
        async with self._database.transaction() as connection:
            if self._seen_transfer is None:
                self._seen_transfer = await pages.last_transfer(connection)
            after = max(0, self._seen_transfer - OVERLAP_TRANSFERS)
            orders, accounts, last = await pages.transfers_after(connection, after, PAGE)
            users = await pages.users_changed(connection, self._seen_at - OVERLAP)
            records = await find_orders(connection, list(orders))
            known = await pages.accounts_by_id(connection, list(accounts))
            known += await pages.accounts_of_users(connection, [user.id for user in users])
        if await self._reads.remember(epoch, _remember, users, known, list(records.values())):
            self._seen_transfer, self._seen_at = max(self._seen_transfer, last), started


def _remember(store: Store, users: list[KnownUser], accounts: list[AccountState], records: list[OrderRecord]) -> None:
    with store.transaction(durable=False):
        store.remember_users(users)
        store.remember_accounts(accounts)
        store.remember_orders(records)
