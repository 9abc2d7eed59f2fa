"""Changes to users and to what belongs to them, other than payments: seen to their end, or not relied upon."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence, Set
from dataclasses import dataclass

from aiopypay.database import Database
from aiopypay.errors import Problem, StandInFenced
from aiopypay.stand_in import pages
from aiopypay.stand_in.mode import ModeSwitch
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.reads import Reads
from aiopypay.stand_in.records import KnownUser
from aiopypay.stand_in.store import Store
from aiopypay.statements import Connection, fetch
from aiopypay.store.accounts import AccountState
from aiopypay.store.orders import OrderRecord, find_orders

# Held by each change until its transaction ends, however late, and waited for by whoever reads the user anew.
LOCK_USERNAMES = """
SELECT pg_advisory_xact_lock(hashtextextended(username, 0))
FROM unnest(%(usernames)s::text[]) AS username
ORDER BY hashtextextended(username, 0)
"""

logger = logging.getLogger(__name__)


class UserChanges:
    """Before a change commits, its user is marked uncertain on disk; afterwards they are read anew, and certain again.

    Where the process dies in between, or the outcome is unknown, they stay uncertain, which without the database
    means 503, until the service is online again.
    """

    def __init__(self, database: Database, node: Node, switch: ModeSwitch, reads: Reads) -> None:
        self._database = database
        self._reads = reads
        self._node = node
        self._switch = switch
        self._running: Counter[str] = Counter()
        self._changed_since: list[set[str]] = []
        self._refresh: asyncio.Task[None] | None = None
        # Who was marked meanwhile, for a change that then was not made.
        node.disk.on_answer.append(self.refresh_soon)

    @contextlib.asynccontextmanager
    async def transaction(self, username: str, *, is_new: bool = False) -> AsyncIterator[Connection]:
        """A transaction that changes this user, or opens their accounts.

        Raises what Database.transaction raises; DiskHangs where the user cannot be marked: then nothing is changed.

        `is_new`: it adds the user, so that one who is known here stays certain, whoever asks for their name.
        """
        name = username.lower()
        # What is being read of the user may not show this change: before it is marked, that reading is spoiled.
        for changed in self._changed_since:
            changed.add(name)
        self._running[name] += 1
        try:
            await self._mark(name, is_new)
            async with self._database.transaction() as connection:
                await fetch(connection, LOCK_USERNAMES, {"usernames": [name]})
                yield connection
        finally:
            self._running[name] -= 1
            if not self._running[name]:
                del self._running[name]
            self.refresh_soon()

    async def _mark(self, name: str, is_new: bool) -> None:
        if self._switch.is_up:
            if not self._node.fenced:
                # A store that fails fences the node, not the change.
                with contextlib.suppress(StandInFenced):
                    await self._node.run(_mark_uncertain, name, is_new)
            self._node.check_may_book()

    async def refresh_before_online(self, database: Database) -> None:
        """Reads the uncertain users anew, while the writer's lock is held and the journal is empty.

        Raises what Database.transaction raises, StandInFenced, DiskHangs.
        """
        with self._watched() as changed:
            await self._node.run(_remember_certain, await self._read(database), changed)

    async def close(self) -> None:
        """Waits for what runs in the background."""
        if self._refresh is not None:
            await asyncio.wait({self._refresh})

    async def _read(self, database: Database) -> "_Reading":
        epoch = self._switch.epoch
        uncertain = await self._node.run(Store.uncertain)
        names = [name for name in uncertain if name not in self._running]
        if not names:
            return _Reading(epoch, (), (), (), ())
        async with database.transaction() as connection:
            await fetch(connection, LOCK_USERNAMES, {"usernames": names})
            users = await pages.users_named(connection, names)
            user_ids = [user.id for user in users]
            accounts = await pages.accounts_of_users(connection, user_ids)
            orders = await find_orders(connection, await pages.opening_orders_of_users(connection, user_ids))
        return _Reading(epoch, names, users, accounts, list(orders.values()))

    @contextlib.contextmanager
    def _watched(self) -> Iterator[set[str]]:
        """Within it, the names of users whose change begins are added to the set."""
        changed: set[str] = set()
        self._changed_since.append(changed)
        try:
            yield changed
        finally:
            self._changed_since = [others for others in self._changed_since if others is not changed]

    def refresh_soon(self) -> None:
        """Reads the uncertain users anew, in the background."""
        if self._refresh is None and self._switch.is_up and not self._node.fenced:
            self._refresh = asyncio.create_task(self._refresh_all())

    async def _refresh_some(self) -> bool:
        """Tells whether there may be more to read."""
        with self._watched() as changed:
            reading = await self._read(self._database)
            if not reading.usernames:
                return False
            return await self._reads.remember(reading.epoch, _remember_certain, reading, changed)

    async def _refresh_all(self) -> None:
        try:
            # Again, until nobody is left out who was still changing while the others were read.
            while await self._refresh_some():
                pass
        except Problem as problem:
            logger.debug("Users stay uncertain for now: %s", problem)
        finally:
            self._refresh = None


def _mark_uncertain(store: Store, username: str, is_new: bool) -> None:
    if is_new and store.user_by_name(username) is not None:
        return
    with store.transaction(durable=True):
        store.mark_uncertain(username)


@dataclass(frozen=True, slots=True)
class _Reading:
    """Users who were uncertain, as they are now in the database; who is not among `users` does not exist."""

    epoch: int
    usernames: Sequence[str]
    users: Sequence[KnownUser]
    accounts: Sequence[AccountState]
    orders: Sequence[OrderRecord]


def _remember_certain(store: Store, reading: _Reading, changed: Set[str]) -> None:
    """Those among `changed` stay uncertain: a change of theirs has begun, and may have ended, since the reading did."""
    with store.transaction(durable=False):
        store.remember_users(reading.users)
        store.remember_accounts(reading.accounts)
        store.remember_orders(reading.orders)
        for username in reading.usernames:
            if username not in changed:
                store.clear_uncertain(username)
