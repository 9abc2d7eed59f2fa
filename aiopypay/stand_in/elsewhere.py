"""What others than nodes have changed, in SQL: seen in the change log, relied upon no more until it was read.

The log is looked at by a statement that costs next to nothing where it has nothing new. What it names is marked as
changed, on disk, together with how far the log was read; then it is read anew, page by page, and with each page its
marks go. So whenever the database is lost, what was seen changed and not read is not known here.
"""

import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from aiopypay.database import Database
from aiopypay.ledger import Currency
from aiopypay.stand_in import pages
from aiopypay.stand_in.deputy import Deputy
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.rates import Rates
from aiopypay.stand_in.records import KnownUser
from aiopypay.stand_in.store import Store
from aiopypay.statements import Connection
from aiopypay.store import change_log
from aiopypay.store.accounts import AccountState
from aiopypay.store.change_log import EVERYTHING, Change, Table

# Payments wait while a page is read.
PAGE = 500
# For so long all wait before the node goes online; what is left is read afterwards, and not relied upon until then.
BEFORE_ONLINE_SECONDS = 0.5
LOG_READ = "change_log_read"
WHOLE_TABLES: frozenset[Change] = frozenset((("accounts", None), ("users", None)))

logger = logging.getLogger(__name__)


class ChangesElsewhere:
    """Follows the change log. `seen` is the snapshot in which it was last looked at, None before the first look."""

    def __init__(self, database: Database, node: Node, deputy: Deputy, rates: Rates) -> None:
        self._database = database
        self._node = node
        self._deputy = deputy
        self._rates = rates
        self._unread: set[Change] = set()
        # While a page is read: what was seen changed since. The page may be older than that.
        self._seen_meanwhile: set[Change] = set()
        self._times_anew: Counter[Table] = Counter()
        # A look with overlap has failed: the next one makes up for it.
        self._owes_overlap = False
        self.seen: str | None = None

    async def recall(self) -> None:
        """Takes up what an earlier run has seen."""
        self.seen, unread = await self._node.run(_recall)
        self._note_unread(unread)

    async def follow(self, *, overlap: bool = False) -> None:
        """Looks at the log and reads what it names. `overlap`: what was read of it just before, too.

        Raises what Database.transaction raises, StandInFenced.
        """
        if self._node.fenced:
            return
        self._owes_overlap |= overlap
        await self._look(self._database, overlap=self._owes_overlap)
        self._owes_overlap = False
        is_getting_on = True
        while self._next_page() and is_getting_on:
            async with self._deputy.moments.turn:
                is_getting_on = self._deputy.switch.is_up and await self._read_some(self._database)

    async def read_before_online(self, database: Database) -> None:
        """Reads what the log names, while the writer's lock is held and the journal is empty; the currencies, always.

        Raises what `follow` raises.
        """
        await self._look(database, overlap=True)
        self._unread.add(("currencies", None))
        until = time.monotonic() + BEFORE_ONLINE_SECONDS
        async with self._deputy.moments.turn:
            is_getting_on = True
            while self._next_page() and is_getting_on:
                is_getting_on = await self._read_some(database) and time.monotonic() < until

    async def start_anew(self) -> None:
        """The database was replaced, and memory forgotten: how far the log was read says nothing any more."""
        await self._node.run(_forget)
        self.seen, self._unread = None, set()

    async def prune(self) -> None:
        """Drops what is old from the log, some at a time. Raises what Database.transaction raises."""
        dropped = self.seen is not None
        while dropped and self.seen is not None:
            async with self._database.transaction() as connection:
                # What stands for all that was dropped is dropped with the next.
                dropped = await change_log.prune(connection, self.seen) > 1

    @property
    def lacks_tables(self) -> bool:
        """Whether all of the accounts, or of the users, may have changed and were not read since."""
        return not self._unread.isdisjoint(WHOLE_TABLES)

    def times_anew(self, table: Table) -> int:
        """Returns how often all of a table was found to have changed: to be given to `note_filled`."""
        return self._times_anew[table]

    def note_filled(self, table: Table, times_anew: int) -> None:
        """All of a table was read and handed to the store, by reads that began when `times_anew` was so much."""
        if (table, None) in self._unread and self._times_anew[table] == times_anew:
            self._unread.discard((table, None))
            self._node.post(_clear, [(table, None)])

    async def _look(self, database: Database, *, overlap: bool) -> None:
        async with database.reading() as connection:
            found = await change_log.look(connection, self.seen, overlap=overlap)
            if overlap and self.seen is not None and found.changes == EVERYTHING:
                found = await change_log.look(connection, self.seen, overlap=False)
        if found.changes or self.seen is None:
            self._seen_meanwhile |= found.changes
            self._times_anew.update(table for table, row_id in found.changes if row_id is None)
            # Marked whatever the mode is by now. The fewer marks, the more is relied upon; it was seen.
            marked = await self._node.run(_note, found.snapshot, found.changes, self.seen is None)
            self._note_unread(marked)
        self.seen = found.snapshot

    async def _read_some(self, database: Database) -> bool:
        """Reads a page in the node's turn and hands it to the store; tells whether it was of use.

        In its turn no batch runs: nothing that is read can be counted a second time by a journal (see Moments.learn).
        """
        epoch = self._deputy.switch.epoch
        page = self._next_page()
        self._seen_meanwhile = set()
        async with self._deputy.moments.transaction(database) as connection:
            reading = await _read(connection, page)
        if epoch != self._deputy.switch.epoch:
            return False
        known = {change for change in page if change not in self._seen_meanwhile}
        self._rates.note(reading.currencies)
        self._node.post(_remember, reading, known)
        self._unread -= known
        return bool(known or self._seen_meanwhile)

    def _next_page(self) -> list[Change]:
        """What is unread and can be read by itself, the currencies first. Whole tables of accounts and users are the
        fill's."""
        currencies: Change = ("currencies", None)
        rows = (change for change in self._unread if change[1] is not None)
        return [currencies] * (currencies in self._unread) + list(islice(rows, PAGE))

    def _note_unread(self, changes: Iterable[Change]) -> None:
        self._unread.update(changes)
        if not WHOLE_TABLES.isdisjoint(changes):
            logger.warning("Very many rows were changed in SQL, or the log of that lacks some: all are read anew.")
            self._deputy.filled = False
            self._deputy.forgotten.set()


@dataclass(frozen=True, slots=True)
class _Reading:
    users: Sequence[KnownUser]
    accounts: Sequence[AccountState]
    # Read with every page: who may have new accounts may have new ones of a currency.
    currencies: Sequence[Currency]


async def _read(connection: Connection, page: Sequence[Change]) -> _Reading:
    ids: dict[Table, list[int]] = {"users": [], "accounts": []}
    for table, row_id in page:
        if row_id is not None:
            ids[table].append(row_id)
    users = await pages.users_by_id(connection, ids["users"]) if ids["users"] else []
    accounts = await pages.accounts_by_id(connection, ids["accounts"]) if ids["accounts"] else []
    return _Reading(users, accounts, await pages.currencies(connection))


def _recall(store: Store) -> tuple[str | None, list[Change]]:
    return store.setting(LOG_READ) or None, store.changed()


def _note(store: Store, snapshot: str, changes: Collection[Change], is_first: bool) -> Collection[Change]:
    """Keeps how far the log was read, and what it named; a node that remembers nothing has nothing to doubt."""
    if is_first and store.counts() == (0, 0):
        changes = ()
    with store.transaction(durable=True):
        store.mark_changed(changes)
        store.set_setting(LOG_READ, snapshot)
    return changes


def _forget(store: Store) -> None:
    with store.transaction(durable=True):
        store.set_setting(LOG_READ, "")
        store.clear_changed(store.changed())


def _remember(store: Store, reading: _Reading, known: Collection[Change]) -> None:
    with store.transaction(durable=False):
        store.remember_users(reading.users)
        store.remember_accounts(reading.accounts)
        store.remember_currencies(reading.currencies)
        store.clear_changed(known)


def _clear(store: Store, known: Collection[Change]) -> None:
    with store.transaction(durable=False):
        store.clear_changed(known)
