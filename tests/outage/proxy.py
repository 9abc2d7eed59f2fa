"""A TCP proxy between the service and PostgreSQL that loses, delays and cuts, also exactly at COMMIT.

It reads just enough of PostgreSQL's protocol to tell messages apart: a simple query `COMMIT` from the client, and the
CommandComplete `COMMIT` from the server (https://www.postgresql.org/docs/current/protocol-message-formats.html). Only
COMMITs of transactions that wrote are meant: where others are cut, nothing is at stake.
"""

import asyncio
import contextlib
import enum
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Literal, Self

from psycopg2.extensions import make_dsn

Direction = Literal["to_server", "to_client"]
DIRECTIONS: tuple[Direction, ...] = ("to_server", "to_client")

WRITE_QUERY = b"INSERT "
# What a node writes for itself, each second or when it reads: at no stake of anybody's.
NODE_QUERIES = (b"INSERT INTO nodes ", b"INSERT INTO moments ")
# Payments are booked by a statement that is prepared once a connection.
BOOKING_QUERY = b"EXECUTE insert_orders "
COMMIT_QUERY = b"COMMIT\0"
COMMIT_COMPLETE = b"COMMIT\0"


class Cut(enum.Enum):
    """Where the next COMMIT is cut, or held."""

    BEFORE_COMMIT = "before COMMIT reaches the server"
    AFTER_COMMIT = "after the server answered COMMIT, before the client hears it"
    HOLD_COMMIT = "COMMIT stands still on the way to the server"


class Proxy:
    """Listens on 127.0.0.1 and forwards to a port there. Faults hold for present and future connections until `heal`.

    What is in a black hole is not lost: as TCP would, it is delivered when the hole is gone, even if the client has
    given up and closed by then.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: dict[Direction, asyncio.Event] = {direction: asyncio.Event() for direction in DIRECTIONS}
        self._released = asyncio.Event()
        self._cut: Cut | None = None
        self._cuts_left = 0
        self._least_booking = 0
        self.port = 0
        # How many COMMITs were cut or held so far, and how many are held now.
        self.cuts = 0
        self.holds = 0
        # Awaited with each COMMIT in hand, before it is forwarded.
        self.before_commit: Callable[[], Awaitable[None]] | None = None

    async def __aenter__(self) -> Self:
        self.heal()
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.heal()
        self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def dsn(self, server_dsn: str) -> str:
        """The server's connection string, by way of the proxy."""
        return make_dsn(server_dsn, port=self.port)

    @property
    def connections(self) -> int:
        """How many connections lead through it now."""
        return len(self._links)

    async def accept(self) -> None:
        """Listens again, on the same port."""
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=256)
        self.port = self._listener.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Refuses new connections; those that there are go on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def black_hole(self, *directions: Direction) -> None:
        """Forwards nothing more, in both directions or in one; connections stay open."""
        for direction in directions or DIRECTIONS:
            self._open[direction].clear()

    def heal(self) -> None:
        """Forwards again, starting with what the black hole or a held COMMIT kept."""
        for gate in self._open.values():
            gate.set()
        self._cut = None
        self._released.set()

    def reset(self) -> None:
        """RST on each connection, on both sides."""
        for link in list(self._links):
            link.reset()

    def half_close(self) -> None:
        """The client reads an end of file on each connection, while what it sends still reaches the server."""
        for link in list(self._links):
            link.half_close()

    def at_commit(self, cut: Cut, *, times: int = 1, least_booking: int = 0) -> None:
        """Cuts (by RST on both sides) or holds the next `times` COMMITs.

        `least_booking`: only those of transactions that book payments, by a command of so many bytes at least.
        """
        self._cut, self._cuts_left, self._least_booking = cut, times, least_booking
        if cut is Cut.HOLD_COMMIT:
            self._released.clear()

    def release(self) -> None:
        """Delivers the COMMITs that are held."""
        self._released.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            _reset(writer)
            self._tasks.discard(task)
            return
        link = _Link(writer, server_writer)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump_to_server(reader, link))
                pumps.create_task(self._pump_to_client(server_reader, link))
        except (asyncio.CancelledError, ExceptionGroup):
            link.reset()
        finally:
            self._links.discard(link)
            self._tasks.discard(task)
            link.close()

    async def _pump_to_server(self, reader: asyncio.StreamReader, link: "_Link") -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            startup = await reader.readexactly(4)
            await self._forward("to_server", startup + await reader.readexactly(_length(startup) - 4), link)
            while True:
                kind, payload, message = await _message(reader)
                if kind == b"Q" and BOOKING_QUERY in payload:
                    link.writes, link.booking = True, len(payload)
                elif kind == b"Q" and _writes(payload):
                    link.writes = True
                if link.writes and kind == b"Q" and payload == COMMIT_QUERY and await self._cut_before(link):
                    return
                await self._forward("to_server", message, link)
        await self._open["to_server"].wait()
        link.end_of_client()

    async def _pump_to_client(self, reader: asyncio.StreamReader, link: "_Link") -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                kind, payload, message = await _message(reader)
                if kind == b"C" and payload == COMMIT_COMPLETE:
                    if link.writes and self._takes(Cut.AFTER_COMMIT, link):
                        link.reset()
                        return
                    link.writes, link.booking = False, 0
                await self._forward("to_client", message, link)
        await self._open["to_client"].wait()
        link.end_of_server()

    async def _cut_before(self, link: "_Link") -> bool:
        if self.before_commit is not None:
            await self.before_commit()
        if self._takes(Cut.BEFORE_COMMIT, link):
            link.reset()
            return True
        if self._takes(Cut.HOLD_COMMIT, link):
            self.holds += 1
            await self._released.wait()
            self.holds -= 1
        return False

    def _takes(self, cut: Cut, link: "_Link") -> bool:
        if self._cut is not cut or self._cuts_left == 0 or link.booking < self._least_booking:
            return False
        self._cuts_left -= 1
        self.cuts += 1
        return True

    async def _forward(self, direction: Direction, message: bytes, link: "_Link") -> None:
        await self._open[direction].wait()
        writer = link.server if direction == "to_server" else link.client
        if not writer.is_closing():
            # A side that has gone away, or was closed by half, makes no difference to what the other one sent.
            with contextlib.suppress(OSError, RuntimeError):
                writer.write(message)
                await writer.drain()


class _Link:
    """One connection: the client's side and the server's."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        # Whether its present transaction wrote, and how long the command was by which it booked payments.
        self.writes = False
        self.booking = 0

    def reset(self) -> None:
        _reset(self.client)
        _reset(self.server)

    def half_close(self) -> None:
        _write_eof(self.client)

    def end_of_client(self) -> None:
        self.server.close()

    def end_of_server(self) -> None:
        self.client.close()

    def close(self) -> None:
        self.client.close()
        self.server.close()


def _writes(query: bytes) -> bool:
    return WRITE_QUERY in query and not any(own in query for own in NODE_QUERIES)


def _length(field: bytes) -> int:
    return int(struct.unpack("!I", field)[0])


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes, bytes]:
    """Returns a message's kind, its payload, and all its bytes."""
    head = await reader.readexactly(5)
    payload = await reader.readexactly(_length(head[1:]) - 4)
    return head[:1], payload, head + payload


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None and not writer.is_closing():
        with contextlib.suppress(OSError):
            # Lingering for no time makes close send RST.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _write_eof(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        writer.write_eof()
