"""Refusals at settling that others have caused: by changing, in SQL, what this node could not know any more."""

import logging
from collections.abc import Sequence

from aiopypay.database import Database
from aiopypay.errors import DatabaseBusy
from aiopypay.stand_in.elsewhere import ChangesElsewhere
from aiopypay.stand_in.records import JournalEntry
from aiopypay.store.change_log import changed_accounts

logger = logging.getLogger(__name__)


class RefusalsElsewhere:
    """Counts them. With one node there should be no other refusals, but for those that the operator has made.

    An order counts where the change log names one of the accounts that it was judged on in an entry that this node had
    not seen when it accepted the order; or where an earlier order that counts should have brought it money.
    """

    def __init__(self, database: Database, elsewhere: ChangesElsewhere) -> None:
        self._database = database
        self._elsewhere = elsewhere
        # Accounts that lack money of such orders, as long as nothing new was seen of the log.
        self._short: set[int] = set()
        self._seen: str | None = None
        self.number = 0

    async def among(self, refused: Sequence[JournalEntry]) -> list[JournalEntry]:
        """Returns which of these entries, in the journal's order, count. Raises what Database.reading raises."""
        seen = self._elsewhere.seen
        if seen is None or not refused:
            return []
        ids = sorted({account_id for entry in refused for account_id in entry.entry.order.account_ids})
        try:
            async with self._database.reading() as connection:
                changed = await changed_accounts(connection, seen, ids)
        except DatabaseBusy as busy:
            # A figure for the operator: settling does not wait for it.
            logger.warning("Whether others caused %s refusals is not known: %s", len(refused), busy.detail)
            return []
        changed |= self._short if seen == self._seen else set()
        found = []
        for entry in refused:
            if not changed.isdisjoint(entry.entry.order.account_ids):
                found.append(entry)
                changed.add(entry.entry.order.to_account_id)
        return found

    def note(self, found: Sequence[JournalEntry]) -> None:
        """Counts what `among` has returned, once it is marked as refused."""
        if self._seen != self._elsewhere.seen:
            self._seen = self._elsewhere.seen
            self._short = set()
        self._short |= {entry.entry.order.to_account_id for entry in found}
        self.number += len(found)
