"""The node's memory of currencies and their rates: it follows what is changed here at once, and elsewhere soon."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

from aiopypay.database import Database
from aiopypay.ledger import Currency
from aiopypay.stand_in import pages
from aiopypay.stand_in.changes import UserChanges
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.store import Store
from aiopypay.statements import Connection

SUPERUSER_NAME = "superuser"

logger = logging.getLogger(__name__)


class Rates:
    """Reads and remembers in turn, so that what was read earlier never replaces what was read later.

    A process that dies between COMMIT and remembering has an older rate until it is online again; each entry of its
    journal bears the rate that it was accepted with, so that it is booked as it was answered.
    """

    def __init__(self, database: Database, node: Node, changes: UserChanges) -> None:
        self._database = database
        self._node = node
        self._changes = changes
        self._turn = asyncio.Lock()
        self._remembered: Sequence[Currency] = ()
        # Reads begun so far, the newest of those that are remembered, and changes under way here.
        self._reads_begun = 0
        self._newest_read = 0
        self._changing = 0

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction that changes currencies, and opens accounts of the superuser.

        Raises what Database.transaction raises.
        """
        async with self._turn:
            self._changing += 1
            try:
                async with self._changes.transaction(SUPERUSER_NAME) as connection:
                    yield connection
                    currencies = await pages.currencies(connection)
            finally:
                self._changing -= 1
            self._remember(self.begin_read(), currencies)

    async def follow(self, *, anew: bool = False) -> None:
        """Remembers what others have changed; `anew`: in any case. Raises what Database.transaction raises."""
        async with self._turn:
            if anew:
                self._remembered = ()
            read = self.begin_read()
            async with self._database.transaction() as connection:
                currencies = await pages.currencies(connection)
            self._remember(read, currencies)

    def begin_read(self) -> int:
        """Returns the number of a read of the currencies that is about to begin, for `is_newest`."""
        self._reads_begun += 1
        return self._reads_begun

    def is_newest(self, read: int, currencies: Sequence[Currency]) -> bool:
        """Tells whether what this read has found is to be remembered, and takes it for so.

        Not where a later read was remembered before it, or a change is under way here, which may end before it.
        """
        if self._changing or read < self._newest_read:
            return False
        self._newest_read, self._remembered = read, currencies
        return True

    def _remember(self, read: int, currencies: Sequence[Currency]) -> None:
        before = self._remembered
        if self.is_newest(read, currencies) and currencies != before and not self._node.fenced:
            self._node.post(_remember_currencies, currencies)


def _remember_currencies(store: Store, currencies: Sequence[Currency]) -> None:
    with store.transaction(durable=True):
        store.remember_currencies(currencies)
