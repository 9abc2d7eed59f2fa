"""The node's memory of currencies and their rates: it follows what is changed here at once, and elsewhere soon."""

import contextlib
from collections.abc import AsyncIterator, Sequence

from aiopypay.database import Database
from aiopypay.ledger import Currency
from aiopypay.stand_in import pages
from aiopypay.stand_in.changes import UserChanges
from aiopypay.stand_in.moments import Moments
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.store import Store
from aiopypay.statements import Connection

SUPERUSER_NAME = "superuser"


class Rates:
    """Reads and remembers in the node's turn, so that what was read earlier never replaces what was read later.

    A process that dies between COMMIT and remembering has an older rate until it is online again; each entry of its
    journal bears the rate that it was accepted with, so that it is booked as it was answered.
    """

    def __init__(self, database: Database, node: Node, changes: UserChanges, moments: Moments) -> None:
        self._database = database
        self._node = node
        self._changes = changes
        self._moments = moments
        self._remembered: Sequence[Currency] = ()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction that changes currencies, and opens accounts of the superuser.

        Raises what Moments.writing raises.
        """
        async with self._changes.transaction(SUPERUSER_NAME) as connection:
            yield connection
            currencies = await pages.currencies(connection)
        # Nobody else has had a turn since.
        if not self._node.fenced:
            self._node.post(_remember_currencies, currencies)
            self.note(currencies)

    def note(self, currencies: Sequence[Currency]) -> None:
        """These are remembered, as they were read in the node's turn."""
        self._remembered = currencies

    async def follow(self, *, anew: bool = False) -> bool:
        """Remembers what others have changed; `anew`: in any case. Tells whether all that there is is remembered.

        Raises what Moments.writing raises.
        """
        if not anew:
            async with self._database.reading() as connection:
                if await pages.currencies(connection) == self._remembered:
                    return True
        if self._node.fenced:
            return False
        learnt = await self._moments.learn(self._database, pages.currencies, _remember_currencies)
        self._remembered = learnt or ()
        return learnt is not None


def _remember_currencies(store: Store, currencies: list[Currency]) -> None:
    with store.transaction(durable=True):
        store.remember_currencies(currencies)
