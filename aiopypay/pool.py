"""A small connection pool under `aiopg.sa.Engine`.

aiopg's own pool connects while it holds its lock, so that one connect that hangs stalls every acquire and
every release behind it. Here callers queue on a semaphore, connect outside any lock, and release without
waiting.
"""

import asyncio
import select
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiopg
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from aiopypay.errors import Overloaded

# Short, so that waiting, and then meeting a database that hangs, together stay below 2 s.
QUEUE_SECONDS = 0.45
# What was in use a moment ago is alive, as far as can be told; asking gives the interpreter away.
FRESH_SECONDS = 0.02


class Pool:
    """At most `maxsize` connections, each handed to one caller at a time. Has what `aiopg.sa.Engine` asks of a pool.

    A connection is used in the `epoch` it was made in. Later it is closed: at once where it is idle and the pool is
    told, or else when it comes back, or is looked at again.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[aiopg.Connection]], maxsize: int, epoch: Callable[[], int] = lambda: 0
    ) -> None:
        self._connect = connect
        self._epoch = epoch
        self.maxsize = maxsize
        self.minsize = 0
        self._slots = asyncio.Semaphore(maxsize)
        # Each with the epoch it was made in; of what is idle, since when.
        self._idle: list[tuple[aiopg.Connection, int, float]] = []
        self._used: dict[aiopg.Connection, int] = {}
        self.closed = False

    @property
    def size(self) -> int:
        """How many connections are open."""
        return len(self._idle) + len(self._used)

    @property
    def freesize(self) -> int:
        """How many of them wait for a caller."""
        return len(self._idle)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A turn to use one of the connections. Raises Overloaded where none comes free within QUEUE_SECONDS."""
        if self.closed:
            raise Overloaded("The service is stopping.")
        await self._take_slot()
        try:
            yield
        finally:
            self._slots.release()

    async def acquire(self) -> aiopg.Connection:
        """Returns a connection that is alive as far as this side can tell, to a caller that holds a `slot`.

        The caller sets the deadline for connecting. Raises what connecting raises.
        """
        # Before it is made: the database may be lost while this one connects.
        epoch = self._epoch()
        connection = self._take_idle() or await self._connect()
        self._used[connection] = epoch
        return connection

    def release(self, connection: aiopg.Connection) -> Awaitable[None]:
        """Takes a connection back, or closes one not at rest. Done when it returns; aiopg wants an awaitable."""
        epoch = self._used.pop(connection, None)
        if epoch is not None:
            if not self.closed and epoch == self._epoch() and _is_at_rest(connection):
                self._idle.append((connection, epoch, time.monotonic()))
            else:
                connection.close()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def close_outdated(self) -> None:
        """Closes what is idle and was made in an earlier epoch."""
        idle, self._idle = self._idle, []
        for connection, epoch, since in idle:
            if epoch == self._epoch():
                self._idle.append((connection, epoch, since))
            else:
                connection.close()

    def close(self) -> None:
        """Closes what is idle now and what is in use when it comes back."""
        self.closed = True
        while self._idle:
            self._idle.pop()[0].close()

    def terminate(self) -> None:
        """Closes every connection at once."""
        self.close()
        for connection in self._used:
            connection.close()

    async def wait_closed(self) -> None:
        """Waits until every caller has given its connection back."""
        for _ in range(self.maxsize):
            await self._slots.acquire()

    async def _take_slot(self) -> None:
        try:
            async with asyncio.timeout(QUEUE_SECONDS):
                await self._slots.acquire()
        except TimeoutError:
            # All connections are busy, which says nothing about whether the database is there.
            raise Overloaded("Too many requests are waiting for the database. Try again in a moment.") from None

    def _take_idle(self) -> aiopg.Connection | None:
        while self._idle:
            connection, epoch, since = self._idle.pop()
            is_fresh = time.monotonic() - since < FRESH_SECONDS
            is_alive = _is_at_rest(connection) and (is_fresh or not _has_news(connection))
            if is_alive and epoch == self._epoch():
                return connection
            connection.close()
        return None


def _is_at_rest(connection: aiopg.Connection) -> bool:
    return not connection.closed and connection.raw.get_transaction_status() == TRANSACTION_STATUS_IDLE


def _has_news(connection: aiopg.Connection) -> bool:
    """Tells whether bytes or an end of file wait on an idle connection: the server said goodbye.

    aiopg notices that itself, unless the event loop was too busy to look.
    """
    poll = select.poll()
    poll.register(connection.raw.fileno(), select.POLLIN)
    return bool(poll.poll(0))
