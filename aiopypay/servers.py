"""Which of the servers that a database URL names is the database: the same for all connections, until it is lost."""

import asyncio
from collections.abc import Callable
from typing import Protocol

import aiopg
import psycopg2

from aiopypay.addresses import single_address_dsns
from aiopypay.sessions import open_session
from aiopypay.translation import ServerUnproven, one_line

CONNECT_SECONDS = 1.0


class Link(Protocol):
    """What all connections share: whether the database is to be used at all, and who is told when it is lost.

    `servers` has, by database URL, the one that all connections of this epoch lead to, once there is one: one that was
    lost, and answers again, must not take what belongs to the one in its place.
    """

    servers: dict[str, str]

    @property
    def is_up(self) -> bool:
        """False: no statement touches the database."""

    @property
    def epoch(self) -> int:
        """How often the database was lost so far."""

    def lost(self, reason: str, epoch: int) -> None:
        """Some statement of a transaction that began in this epoch met DatabaseUnavailable."""

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Has this called each time, when the new epoch has begun."""

    async def wait_until_down(self) -> None:
        """Returns once the database is not to be used."""


class Servers:
    """Connects to the server of this epoch: to the first of the URL's that accepts it, and from then on to that one.

    Epochs are the link's; without a link one ends with `renew`.
    """

    def __init__(self, database_url: str, link: Link | None) -> None:
        self._database_url = database_url
        self._link = link
        self._renewals = 0
        self._server: str | None = None
        self._first: str | None = None
        self._last: str | None = None

    @property
    def epoch(self) -> int:
        """The number of this epoch."""
        return self._renewals if self._link is None else self._link.epoch

    @property
    def server(self) -> str | None:
        """The connection string of this epoch's server, None before the first connection."""
        return self._server if self._link is None else self._link.servers.get(self._database_url)

    def renew(self, first: str | None = None) -> None:
        """Begins an epoch, in which `first` is tried first; or, without it, the server used so far last."""
        self._first, self._last = first, None if first else self._server
        self._server = None
        self._renewals += 1

    async def connect(self) -> aiopg.Connection:
        """Returns a connection. Raises psycopg2.Error, SessionUnfit, TimeoutError, OSError."""
        epoch, server = self.epoch, self.server
        if server is not None:
            connection = await self._connected(server, CONNECT_SECONDS)
        else:
            connection, server = await self._connect_to_any()
        if epoch != self.epoch or self.server not in (None, server):
            connection.close()
            raise OSError("the database was lost, or another server taken for it, while this one connected")
        if self._link is None:
            self._server = server
        else:
            self._link.servers[self._database_url] = server
        return connection

    async def _connect_to_any(self) -> tuple[aiopg.Connection, str]:
        """Each server has its share of the time, so that one that hangs does not hide those behind it."""
        async with asyncio.timeout(CONNECT_SECONDS):
            dsns = await single_address_dsns(self._database_url)
        dsns.sort(key=lambda dsn: (dsn == self._last) - (dsn == self._first))
        failures: list[Exception] = []
        for dsn in dsns:
            try:
                return await self._connected(dsn, CONNECT_SECONDS / len(dsns)), dsn
            except (psycopg2.Error, OSError) as error:
                failures.append(error)
        # What stands in a server's place is what the operator must know of, whatever the others say.
        for failure in failures:
            if len(failures) == 1 or isinstance(failure, ServerUnproven):
                raise failure
        # What the last one says may be the least of it.
        raise psycopg2.OperationalError("; ".join(map(one_line, failures)))

    async def _connected(self, dsn: str, seconds: float) -> aiopg.Connection:
        """Without a link it is the one who finds out whether the database can be used at all."""
        async with asyncio.timeout(seconds):
            return await open_session(dsn, is_first=self._link is None)
