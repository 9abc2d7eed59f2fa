"""Changes to users and to what belongs to them, other than payments: seen to their end, or not relied upon."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

from aiopypay.database import Database
from aiopypay.errors import CommitInDoubt, DatabaseBusy, DatabaseUnavailable, Problem
from aiopypay.stand_in.mode import ModeSwitch
from aiopypay.stand_in.moments import Moments
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.records import KnownUser
from aiopypay.stand_in.store import Store
from aiopypay.stand_in.user_reading import read_page, read_users, remember_certain
from aiopypay.statements import Connection
from aiopypay.translation import UNAVAILABLE_DETAIL

# Read at once of the uncertain: payments wait meanwhile.
USERS_AT_ONCE = 50
PAUSE_SECONDS = 0.01
RETRY_SECONDS = 1.0

logger = logging.getLogger(__name__)


class UserChanges:
    """Before a change commits, its user is marked uncertain on disk; with its answer they are certain again.

    Where the process dies in between, or the outcome is unknown, they stay uncertain, which without the database
    means 503, until they were read anew. Whoever reads them does it under the lock of the node's moment, which a change
    holds until its transaction ends, however late.

    They are read a few at a time, and one with many accounts page by page: how many a user has, and how many users are
    uncertain, is theirs to say, and neither keeps the node from going online. Whoever has not been read by then stays
    uncertain a while longer.
    """

    def __init__(self, database: Database, node: Node, switch: ModeSwitch, moments: Moments) -> None:
        self._database = database
        self._node = node
        self._switch = switch
        self._moments = moments
        self._refresh: asyncio.Task[None] | None = None
        self._is_closing = False
        # Up to which account a user was read who has many: an outage does not send it back to the first.
        self._read_up_to: tuple[int, int] = (0, 0)
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
        epoch = self._switch.epoch
        mark = _Mark(username.lower(), is_new=is_new)
        try:
            async with self._moments.turn:
                async with self._undone(mark), self._moments.transaction(self._database, mark.put) as connection:
                    yield connection
                    reading = await read_users(connection, [mark.username])
                if mark.is_own:
                    # All else is known: what the change has opened is the newest.
                    reading = replace(reading, usernames=[mark.username])
                # Since the database was lost, the journal knows better.
                if epoch == self._switch.epoch and self._node.fenced is None:
                    self._node.post(remember_certain, reading)
                    mark.is_gone = bool(reading.usernames)
        finally:
            if not mark.is_gone:
                self.refresh_soon()

    @contextlib.asynccontextmanager
    async def _undone(self, mark: "_Mark") -> AsyncIterator[None]:
        """Takes the mark away again where the change was certainly not made, and who it is about was certain before."""
        try:
            yield
        except CommitInDoubt:
            raise
        except Exception:
            # As `Moments.outcome_of` has it: never sent, or refused.
            if mark.is_own and self._node.fenced is None:
                self._node.post(_unmark, mark.username)
                mark.is_gone = True
            raise

    async def refresh_before_online(self, database: Database) -> None:
        """Reads some uncertain users anew, while the writer's lock is held and the journal is empty.

        With none it still takes a step: nobody goes online on another moment. Raises what Moments.writing raises.
        """
        async with self._moments.turn:
            async with self._moments.transaction(database):
                pass
            uncertain = await self._node.run(Store.uncertain, USERS_AT_ONCE)
            if not uncertain:
                return
            try:
                async with self._moments.transaction(database) as connection:
                    reading = await read_users(connection, uncertain)
            except DatabaseBusy as busy:
                logger.debug("Users stay uncertain for now: %s", busy)
                return
            await self._node.run(remember_certain, reading)

    async def close(self) -> None:
        """Waits for what runs in the background, which ends soon."""
        self._is_closing = True
        if self._refresh is not None:
            await asyncio.wait({self._refresh})

    def refresh_soon(self) -> None:
        """Reads the uncertain users anew, in the background."""
        if self._refresh is None and self._may_refresh():
            self._refresh = asyncio.create_task(self._refresh_all())

    def _may_refresh(self) -> bool:
        return self._switch.is_up and not self._node.fenced and not self._is_closing

    async def _refresh_all(self) -> None:
        try:
            # Again, until nobody is left whose change ended while the others were read.
            while self._may_refresh() and (uncertain := await self._node.run(Store.uncertain, USERS_AT_ONCE)):
                try:
                    await self._refresh_some(uncertain)
                    await asyncio.sleep(PAUSE_SECONDS)
                except DatabaseBusy as busy:
                    logger.debug("Users stay uncertain for now: %s", busy)
                    await asyncio.sleep(RETRY_SECONDS)
        except Problem as problem:
            logger.debug("Users stay uncertain for now: %s", problem)
        finally:
            self._refresh = None

    async def _refresh_some(self, uncertain: list[str]) -> None:
        """Reads these, and one of those among them who have many accounts to the end."""
        reading = await self._moments.learn(self._database, partial(read_users, names=uncertain), remember_certain)
        if reading is not None and reading.large:
            await self._refresh_large(reading.large[0])

    async def _refresh_large(self, user: KnownUser) -> None:
        """Page by page, from where it stopped. Accounts that are opened meanwhile come behind all others."""
        is_going_on = True
        while is_going_on and self._may_refresh():
            user_id, account_id = self._read_up_to
            after = account_id if user_id == user.id else 0
            read = partial(read_page, username=user.username.lower(), after=after)
            reading = await self._moments.learn(self._database, read, remember_certain)
            if reading is None:
                return
            is_going_on = not reading.usernames
            self._read_up_to = (user.id, reading.accounts[-1].id) if is_going_on else (0, 0)
            await asyncio.sleep(PAUSE_SECONDS)


class _Mark:
    """That a user's change has begun, on disk. `is_own`: it was not there before."""

    def __init__(self, username: str, *, is_new: bool) -> None:
        self.username = username
        self.is_own = self.is_gone = False
        self._is_new = is_new

    def put(self, store: Store) -> None:
        """In the store's thread."""
        if not self._is_new or store.user_by_name(self.username) is None:
            # Of one who is added nothing may be known yet, although the name is taken: they are read in any case.
            self.is_own = not self._is_new and not store.is_uncertain(self.username)
            store.mark_uncertain(self.username)


def _unmark(store: Store, username: str) -> None:
    with store.transaction(durable=False):
        store.clear_uncertain(username)
