"""Changes to users and to what belongs to them, other than payments: seen to their end, or not relied upon."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

from aiopypay.database import Database
from aiopypay.errors import DatabaseUnavailable, Problem
from aiopypay.stand_in import pages
from aiopypay.stand_in.mode import ModeSwitch
from aiopypay.stand_in.moments import Moments
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.records import KnownUser
from aiopypay.stand_in.store import Store
from aiopypay.statements import Connection
from aiopypay.store.accounts import AccountState
from aiopypay.store.orders import OrderRecord, find_orders
from aiopypay.translation import UNAVAILABLE_DETAIL

logger = logging.getLogger(__name__)


class UserChanges:
    """Before a change commits, its user is marked uncertain on disk; with its answer they are certain again.

    Where the process dies in between, or the outcome is unknown, they stay uncertain, which without the database
    means 503, until the service is online again. Whoever reads them then does it under the lock of the node's moment,
    which a change holds until its transaction ends, however late.
    """

    def __init__(self, database: Database, node: Node, switch: ModeSwitch, moments: Moments) -> None:
        self._database = database
        self._node = node
        self._switch = switch
        self._moments = moments
        self._refresh: asyncio.Task[None] | None = None
        # Who was marked meanwhile, for a change that then was not made.
        node.disk.on_answer.append(self.refresh_soon)

    @contextlib.asynccontextmanager
    async def transaction(self, username: str, *, is_new: bool = False) -> AsyncIterator[Connection]:
        """A transaction that changes this user, or opens their accounts.

        Raises what Moments.writing raises, DiskHangs too: then nothing is changed.

        `is_new`: it adds the user, so that one who is known here stays certain, whoever asks for their name.
        """
        if not self._switch.is_up:
            raise DatabaseUnavailable(UNAVAILABLE_DETAIL)
        name = username.lower()
        epoch = self._switch.epoch
        is_known = False
        try:
            async with self._moments.turn:
                async with self._moments.transaction(
                    self._database, partial(_mark_uncertain, username=name, is_new=is_new)
                ) as connection:
                    yield connection
                    reading = await _read(connection, [name])
                # Since the database was lost, the journal knows better.
                is_known = epoch == self._switch.epoch and self._node.fenced is None
                if is_known:
                    self._node.post(_remember_certain, reading)
        finally:
            if not is_known:
                self.refresh_soon()

    async def refresh_before_online(self, database: Database) -> None:
        """Reads the uncertain users anew, while the writer's lock is held and the journal is empty.

        With none it still takes a step: nobody goes online on another moment. Raises what Moments.writing raises.
        """
        async with self._moments.turn:
            uncertain = await self._node.run(Store.uncertain)
            async with self._moments.transaction(database) as connection:
                reading = await _read(connection, uncertain)
            await self._node.run(_remember_certain, reading)

    async def close(self) -> None:
        """Waits for what runs in the background."""
        if self._refresh is not None:
            await asyncio.wait({self._refresh})

    def refresh_soon(self) -> None:
        """Reads the uncertain users anew, in the background."""
        if self._refresh is None and self._switch.is_up and not self._node.fenced:
            self._refresh = asyncio.create_task(self._refresh_all())

    async def _refresh_all(self) -> None:
        try:
            # Again, until nobody is left whose change ended while the others were read.
            while uncertain := await self._node.run(Store.uncertain):
                if (
                    await self._moments.learn(self._database, partial(_read, names=uncertain), _remember_certain)
                    is None
                ):
                    return
        except Problem as problem:
            logger.debug("Users stay uncertain for now: %s", problem)
        finally:
            self._refresh = None


def _mark_uncertain(store: Store, username: str, *, is_new: bool) -> None:
    if not is_new or store.user_by_name(username) is None:
        store.mark_uncertain(username)


@dataclass(frozen=True, slots=True)
class _Reading:
    """Users who were uncertain, as they are now in the database; who is not among `users` does not exist."""

    usernames: Sequence[str] = ()
    users: Sequence[KnownUser] = ()
    accounts: Sequence[AccountState] = ()
    orders: Sequence[OrderRecord] = ()


async def _read(connection: Connection, names: Sequence[str]) -> _Reading:
    if not names:
        return _Reading()
    users = await pages.users_named(connection, names)
    user_ids = [user.id for user in users]
    accounts = await pages.accounts_of_users(connection, user_ids)
    orders = await find_orders(connection, await pages.opening_orders_of_users(connection, user_ids))
    return _Reading(names, users, accounts, list(orders.values()))


def _remember_certain(store: Store, reading: _Reading) -> None:
    with store.transaction(durable=False):
        store.remember_users(reading.users)
        store.remember_accounts(reading.accounts)
        store.remember_orders(reading.orders)
        for username in reading.usernames:
            store.clear_uncertain(username)
