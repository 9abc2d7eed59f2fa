"""aiohttp's server with our limits: a cap on connections, short keep-alive, and problems for what is not HTTP."""

import asyncio
import logging
import resource

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from aiopypay.errors import InternalError, InvalidRequest
from aiopypay.middlewares import REQUEST_ID, identified, new_request_id, problem_response, set_common_headers

CONNECTIONS_MAX = 2_000
FILES_BESIDE = 500
KEEPALIVE_SECONDS = 75
STOP_PATIENCE_SECONDS = 10
# One header may carry a long password; what is longer still is refused.
HEADER_BYTES_MAX = 16 * 1024

logger = logging.getLogger(__name__)


def allow_files() -> None:
    """Raises the limit of open files as far as our connections need and the system lets us.

    A service that runs out of them cannot reach its database, and would take that for an outage.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + FILES_BESIDE
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


class Runner(web.AppRunner):
    """Runs an application. Bodies stay as they were sent: a compressed one that is cut short is not noticed."""

    def __init__(self, app: web.Application) -> None:
        super().__init__(
            app,
            access_log=None,
            handle_signals=False,
            auto_decompress=False,
            keepalive_timeout=KEEPALIVE_SECONDS,
            shutdown_timeout=STOP_PATIENCE_SECONDS,
            max_field_size=HEADER_BYTES_MAX,
            max_line_size=HEADER_BYTES_MAX,
        )

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        handler = identified(made.request_handler)
        return _Server(handler, request_factory=made.request_factory, **made._kwargs)  # noqa: SLF001


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self._connections) > CONNECTIONS_MAX:
            logger.warning("A connection is closed: %s are open, as many as may be.", CONNECTIONS_MAX)
            transport.abort()


class _Protocol(RequestHandler):
    """Answers what is not HTTP, or fails outside of the application, like every other problem."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it repeats parts of the request, which may hold a password
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("An answer has begun; there can be no other.") from exc
        if REQUEST_ID not in request:
            request[REQUEST_ID] = new_request_id()
        problem = InternalError() if status >= 500 else InvalidRequest("The request is not valid HTTP")
        if status >= 500:
            logger.error("Request %s failed", request[REQUEST_ID], exc_info=exc)
        response = problem_response(request, problem, status=status)
        set_common_headers(response, request[REQUEST_ID])
        response.force_close()
        return response
