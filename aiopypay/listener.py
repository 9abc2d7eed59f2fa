"""Accepts connections itself, so that one too many costs no more than its closing.

uvloop's own server has a protocol and a transport made before anybody is asked; and it ends for good, without a word,
where the system lets it open no more files (EMFILE).
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Sequence
from typing import cast

from aiohttp import web

BACKLOG = 1024
# Then those that are open have their turn.
ACCEPTED_AT_ONCE = 100
PAUSE_SECONDS = 0.1
# What the system keeps of one connection, each way; by itself it takes megabytes, of those who do not read, too.
SOCKET_BYTES = 64 * 1024
# This machine has no such network; another of the host's addresses will do.
NOT_HERE = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}


class Site(web.TCPSite):
    """aiohttp's site, with a Listener where it has the event loop's server."""

    __slots__ = ("_accept", "_out_of_files")

    def __init__(
        self,
        runner: web.BaseRunner,
        host: str,
        port: int,
        *,
        accept: Callable[[socket.socket, str], None],
        out_of_files: Callable[[], None],
    ) -> None:
        super().__init__(runner, host, port)
        self._accept = accept
        self._out_of_files = out_of_files

    async def start(self) -> None:
        """Listens from now on. Raises OSError."""
        await web.BaseSite.start(self)
        sockets = await _bound(self._host or "", self._port)
        # aiohttp only asks it for its sockets, and to close.
        self._server = cast("asyncio.AbstractServer", Listener(sockets, self._accept, self._out_of_files))
        self._bound_port = sockets[0].getsockname()[1]


class Listener:
    """Hands each accepted socket, with the client's address, to `accept`, which closes those that are too many."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        accept: Callable[[socket.socket, str], None],
        out_of_files: Callable[[], None],
    ) -> None:
        self.sockets = list(sockets)
        self._accept = accept
        self._out_of_files = out_of_files
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._begin()

    def close(self) -> None:
        """Accepts no more; those who wait to be accepted are turned away."""
        if self._pause is not None:
            self._pause.cancel()
        for listening in self.sockets:
            self._loop.remove_reader(listening)
            listening.close()
        self.sockets = []

    def _begin(self) -> None:
        for listening in self.sockets:
            self._loop.add_reader(listening, self._take, listening)

    def _take(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                # The client has gone again.
                continue
            except OSError:
                # No file, or no memory, for one more. They wait in the system's queue.
                self._pause_all()
                return
            connection.setblocking(False)
            self._accept(connection, address[0])

    def _pause_all(self) -> None:
        for listening in self.sockets:
            self._loop.remove_reader(listening)
        self._pause = self._loop.call_later(PAUSE_SECONDS, self._begin)
        self._out_of_files()


async def _bound(host: str, port: int) -> list[socket.socket]:
    """Returns sockets that listen on each of the host's addresses. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    with contextlib.ExitStack() as undo:
        sockets = []
        failures = []
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            try:
                listening = socket.create_server(address, family=family, backlog=BACKLOG)
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise
                failures.append(error)
                continue
            undo.callback(listening.close)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                listening.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)
            listening.setblocking(False)
            sockets.append(listening)
        if not sockets:
            raise failures[0]
        undo.pop_all()
    return sockets
