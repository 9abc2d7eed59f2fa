"""aiohttp's server with our limits: on connections, on what comes over them, and on how long that may take."""

import asyncio
import logging
import resource
import socket
from collections.abc import Sequence

from aiohttp import web

from aiopypay.connections import CONNECTIONS_MAX, Connections
from aiopypay.http_protocol import HttpProtocol
from aiopypay.listener import Site
from aiopypay.middlewares import METRICS, identified
from aiopypay.settings import Network

FILES_BESIDE = 500
STOP_PATIENCE_SECONDS = 10
# For how long the rest of a body that nobody wants is read, so that the client hears why.
LINGERING_SECONDS = 2.0
# One header may carry a long password; what is longer still is refused.
HEADER_BYTES_MAX = 16 * 1024

logger = logging.getLogger(__name__)


def allow_files() -> int:
    """Raises the limit of open files as far as our connections need and the system lets us; returns their limit.

    A service that runs out of them cannot reach its database, and would take that for an outage.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + FILES_BESIDE
    if soft < wanted:
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = min(CONNECTIONS_MAX, soft - min(FILES_BESIDE, soft // 2))
    if most < CONNECTIONS_MAX:
        logger.warning("At most %s connections: the system lets this process open %s files (ulimit -n).", most, soft)
    return most


class Runner(web.AppRunner):
    """Runs an application. Bodies stay as they were sent: a compressed one that is cut short is not noticed."""

    def __init__(
        self,
        app: web.Application,
        *,
        trusted_proxies: Sequence[Network] = (),
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self.connections = Connections(trusted_proxies, connections_max)
        super().__init__(
            app,
            connections=self.connections,
            access_log=None,
            handle_signals=False,
            auto_decompress=False,
            lingering_time=LINGERING_SECONDS,
            shutdown_timeout=STOP_PATIENCE_SECONDS,
            max_field_size=HEADER_BYTES_MAX,
            max_line_size=HEADER_BYTES_MAX,
        )
        self._opening: set[asyncio.Task[None]] = set()
        app[METRICS].watch_connections(self.connections)

    async def listen(self, host: str, port: int) -> None:
        """Serves there from now on. Raises OSError."""
        await Site(self, host, port, accept=self._accept, out_of_files=self.connections.out_of_files).start()

    async def cleanup(self) -> None:
        """Stops serving; running requests finish."""
        await super().cleanup()
        self.connections.stop()

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        handler = identified(made.request_handler)
        return _Server(handler, request_factory=made.request_factory, **made._kwargs)  # noqa: SLF001

    def _accept(self, accepted: socket.socket, address: str) -> None:
        """Serves a client, or turns it away."""
        assert isinstance(self.server, _Server)  # noqa: S101 - it outlives the sites
        if not self.connections.admits(address):
            accepted.close()
            return
        protocol = self.server()
        # Before there is a transport: many may be accepted in one turn of the event loop.
        self.connections.add(protocol, address)
        opening = asyncio.get_running_loop().create_task(self._open(protocol, accepted))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _open(self, protocol: HttpProtocol, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, accepted)
        except OSError:
            # The client has gone again.
            self.connections.remove(protocol)
            accepted.close()


class _Server(web.Server):
    def __call__(self) -> HttpProtocol:
        return HttpProtocol(self, loop=self._loop, **self._kwargs)
