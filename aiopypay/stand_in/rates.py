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

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction that changes currencies, and opens accounts of the superuser.

        Raises what Database.transaction raises.
        """
        async with self._turn:
            async with self._changes.transaction(SUPERUSER_NAME) as connection:
                yield connection
                currencies = await pages.currencies(connection)
            self._remember(currencies)

    async def follow(self, *, anew: bool = False) -> None:
        """Remembers what others have changed; `anew`: in any case. Raises what Database.transaction raises."""
        async with self._turn:
            if anew:
                self._remembered = ()
            async with self._database.transaction() as connection:
                currencies = await pages.currencies(connection)
            self._remember(currencies)

    def _remember(self, currencies: Sequence[Currency]) -> None:
        if currencies != self._remembered and not self._node.fenced:
            self._node.post(_remember_currencies, currencies)
            self._remembered = currencies


def _remember_currencies(store: Store, currencies: Sequence[Currency]) -> None:
    with store.transaction(durable=True):
        store.remember_currencies(currencies)
