"""The node's durable store: what it knows of PostgreSQL, its journal, and the plans of the newest batches.

What holds afterwards, and why:

- **After a kill** (-9 included) everything is there that a transaction wrote, durable or not: it was handed to the
  operating system before the transaction ended. The tail file has the number of the very last transaction, and the run
  of the machine in which it was made; as long as that run lasts, anything less is damage. A transaction cut off in its
  middle was never acknowledged: it is left out, and `dropped` says so.
- **After a loss of power** everything is there up to the last durable transaction at least. SQLite's log is one
  sequence, and a durable transaction syncs all of it: what goes missing are the newest transactions, without gaps, none
  of them durable. So balances recorded after a batch can only be lost together with the withdrawal of its plan, which
  was recorded with them; the plan is then there again, and the batch is in doubt, which is right whatever became of it.
  For the same reason the balances of several batches may be recorded at once, some time after they were booked.
- **After damage** (flipped bits, cuts, files lost or put back from a copy) nothing is taken for sound that was not
  written here. Each row has a keyed checksum; the seal, one row rewritten by each transaction, has the number and the
  combined checksum of all rows of each table, so that none can vanish or come back; entries are chained. SQLite's own
  check finds what would mislead a lookup. What a damaged log makes SQLite drop without a word is known to the tail
  file: the number of the last acknowledged transaction covers plans and their withdrawals as well as the journal.

Acknowledging takes this order: the log is synced, then the tail file. Between the two the store is ahead of its
tail, which is harmless: what was not acknowledged may be kept. The other way round, a kill would look like damage.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self
from uuid import UUID

from aiopypay.stand_in import directory as files
from aiopypay.stand_in.failures import DuplicateEntry, StoreDamaged, StoreFailed, StoreFull, StoreInUse
from aiopypay.stand_in.formats import FORMAT
from aiopypay.stand_in.journal import Journal
from aiopypay.stand_in.known_orders import ORDERS_MAX, KnownOrders
from aiopypay.stand_in.opening import NODE_ID, Opened, open_files
from aiopypay.stand_in.tables import RENEW_PLAN, WRITE_SEAL
from aiopypay.stand_in.tail import Mark, boot_id
from aiopypay.stand_in.verification import Verification

__all__ = ["DuplicateEntry", "Store", "StoreDamaged", "StoreFailed", "StoreFull", "StoreInUse"]

# Rows written, about as many pages of the log. Four times as many where somebody waits for the transaction.
FOLDED_AFTER = 4000
# Of SQLite's virtual machine, while all is verified.
STEPS_BETWEEN_SIGNS = 100_000


class Store(KnownOrders, Journal):
    """The only door to the store. All methods are for one thread; reads may also be outside of a transaction."""

    def __init__(self, directory: Path, opened: Opened, lock: int, orders_max: int) -> None:
        super().__init__(opened.connection, opened.checksums, opened.findings.seal, opened.findings.effects)
        self._directory = directory
        self._tail = opened.tail
        self._lock = lock
        self._boot = boot_id()
        self._changes_folded = 0
        # Whether SQLite has been told to sync at COMMIT.
        self._syncs: bool | None = None
        self.orders_max = orders_max
        self.damage = opened.findings.told()
        self.dropped = opened.findings.lost
        node_id = self.setting(NODE_ID)
        self.node_id = UUID(node_id) if node_id else None

    @classmethod
    def open(cls, directory: Path, *, orders_max: int = ORDERS_MAX) -> Self:
        """Opens the store in this directory and takes it for this process; makes it on first use.

        A damaged store opens too: `damage` says what is wrong, it can be read as far as it verifies, and what would
        write to it raises StoreDamaged. Raises StoreInUse, StartError (no such directory can be), StoreFailed (the
        disk is full or fails).
        """
        files.prepare_directory(directory)
        lock = files.take_lock(directory)
        try:
            store = cls(directory, open_files(directory), lock, orders_max)
        except BaseException as error:
            os.close(lock)
            if isinstance(error, OSError | sqlite3.Error):
                raise StoreFailed(f"the store in {directory} cannot be opened ({error})") from error
            raise
        try:
            if store.damage is None:
                with suppress(StoreDamaged):
                    store._start()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Closes the store and gives the directory up. No error of the disk is raised: nothing is pending here."""
        with suppress(sqlite3.Error):
            self._connection.close()
        if self._tail:
            self._tail.close()
        os.close(self._lock)

    @contextmanager
    def transaction(self, *, durable: bool) -> Iterator[None]:
        """One transaction. A durable one is on disk at the end, with all before it; another survives a kill only.

        Raises StoreFailed when it could not be written: then it is not acknowledged, though it may turn up after
        the store is opened again. Raises StoreDamaged. An exception in the body undoes it.
        """
        self._begin(durable)
        before = self._seal
        self._seal = before.copy()
        try:
            with self._failures_told():
                yield
                changed = self._finish(durable)
                self.stepped()
        except BaseException:
            self._seal = before
            self._undo()
            raise
        self._in_transaction = False
        self._effects.keep()
        if changed:
            self._acknowledge(durable)
            self.stepped()
            if self._connection.total_changes - self._changes_folded > FOLDED_AFTER * (4 if durable else 1):
                self._fold("PASSIVE")

    def verify(self) -> None:
        """Verifies all that is there, as at opening. Raises StoreDamaged. Ten seconds for a million orders."""
        self._require_sound()
        assert self._tail is not None  # noqa: S101 - a store without one is damaged
        # Whoever watches the disk sees that it answers.
        self._connection.set_progress_handler(self._progress, STEPS_BETWEEN_SIGNS)
        try:
            findings = Verification(self._connection, self._checksums, self._tail.mark).run()
        finally:
            self._connection.set_progress_handler(None, 0)
        damage = findings.told()
        if damage is None and findings.seal != self._seal:
            damage = "the store does not hold what was written to it last"
        if damage is not None:
            self._note(damage)
            self._require_sound()

    def _progress(self) -> None:
        self.stepped()

    def free_bytes(self) -> int:
        """Returns how much room its disk has for those who are not root. Raises StoreFailed where nobody can tell."""
        try:
            system = os.statvfs(self._directory)
        except OSError as error:
            raise StoreFailed(f"the disk of {self._directory} does not tell its room ({error.strerror})") from error
        return system.f_bavail * system.f_frsize

    @property
    def is_unsure(self) -> bool:
        """Whether what a transaction wrote that failed may be found after opening anew. Not so after a full disk."""
        return self._failure is not None

    def _start(self) -> None:
        """Makes certain that what was found is on disk, and that the tail file knows it.

        After a kill the log may end with a group that was synced but not yet marked, or not even synced. It
        verifies and is kept; a retry of its orders will be told that they are accepted. A store of an older format
        is brought up to this one in the same transaction.
        """
        with self.transaction(durable=True):
            if self._seal.format == 1:
                for command in RENEW_PLAN:
                    self._connection.execute(command)
            self._seal.format = FORMAT
        self._fold("TRUNCATE")

    def _begin(self, durable: bool) -> None:
        self._require_sound()
        if self._failure:
            raise StoreFailed(self._failure)
        if self._in_transaction:
            raise RuntimeError("one transaction at a time")
        with self._failures_told():
            if durable is not self._syncs:
                self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._syncs = durable
            self._connection.execute("BEGIN IMMEDIATE")
        self._spoiled = False
        self._in_transaction = True
        self._changes_begun = self._connection.total_changes

    def _finish(self, durable: bool) -> bool:
        self._require_sound()
        if self._spoiled:
            raise RuntimeError("a write of this transaction failed: it cannot be kept")
        changed = durable or self._connection.total_changes != self._changes_begun
        if changed:
            self._seal.commit += 1
            sealed = (1, self._seal.encode())
            self._seal_checksum = self._checksums.row("seal", sealed)
            self._connection.execute(WRITE_SEAL, (*sealed, self._seal_checksum))
        self._connection.execute("COMMIT")
        return changed

    def _undo(self) -> None:
        self._in_transaction = False
        self._effects.undo()
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            self._failure = f"the store could not undo a transaction ({error})"

    def _acknowledge(self, durable: bool) -> None:
        assert self._tail is not None  # noqa: S101 - a store without one is damaged, and not written
        seal = self._seal
        mark = Mark(seal.commit, seal.last, seal.last_link, seal.commit, self._seal_checksum, self._boot)
        try:
            self._tail.write(mark, durable=durable)
        except OSError as error:
            self._failure = f"the store's tail file could not be written ({error.strerror})"
            raise StoreFailed(self._failure) from error

    def _fold(self, mode: str) -> None:
        """Writes the log into the store, so that it starts anew.

        The transaction before is acknowledged whatever happens here. A full disk may refuse: the log grows on then.
        After any other error nothing more is written.
        """
        self._changes_folded = self._connection.total_changes
        try:
            self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                self._failure = f"the store's log could not be folded into it ({error}, {error.sqlite_errorname})"
