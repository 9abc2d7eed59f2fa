"""aiohttp's protocol for one connection, with limits on how much a client sends, and how slowly it sends and reads."""

import asyncio
import logging
from typing import Any, cast

from aiohttp import web, web_protocol
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from aiopypay.connections import Connections
from aiopypay.errors import HeadTooLarge, InternalError, InvalidRequest, Problem, RequestTimeout
from aiopypay.middlewares import REQUEST_ID, new_request_id, problem_response, set_common_headers

HEAD_BYTES_MAX = 32 * 1024
HEAD_SECONDS = 10.0
# An answer is taken at this speed or faster, or is cut.
ANSWER_SECONDS = 10.0
ANSWER_BYTES_MIN = 10 * 1024
KEEPALIVE_SECONDS = 75.0
# Data goes to the parser in pieces, so that what a head and what follows it take is told apart well enough.
PIECE_BYTES = 8 * 1024
# Requests that are parsed and wait for the answer to the one before, each with a head; aiohttp has no option for it.
web_protocol.MAX_MSG_QUEUE_SIZE = 2

logger = logging.getLogger(__name__)


class HttpProtocol(RequestHandler):
    """A connection: `Connection` to those who count them. Its problems look like all others."""

    __slots__ = (
        "_answer_left",
        "_answer_looked_at",
        "_body",
        "_connections",
        "_head_bytes",
        "_head_since",
        "_is_refused",
        "_requests_seen",
        "_transport",
    )

    def __init__(self, manager: web.Server, *, connections: Connections, **options: Any) -> None:
        super().__init__(manager, keepalive_timeout=KEEPALIVE_SECONDS, **options)
        self._connections = connections
        # aiohttp's own reference is gone as soon as it begins to close.
        self._transport: asyncio.Transport | None = None
        # Of the newest request; while it arrives there is no next head.
        self._body: StreamReader = EMPTY_PAYLOAD
        self._head_bytes = 0
        self._head_since: float | None = self._loop.time()
        self._is_refused = False
        self._answer_left = 0
        self._answer_looked_at = 0.0
        self._requests_seen = 0

    @property
    def idle_since(self) -> float | None:
        """See `Connection`."""
        if self._waiter is None or self._waiter.done() or self._transport is None:
            return None
        # aiohttp sets it with the connection, and with each answer.
        return None if self._transport.get_write_buffer_size() else self._next_keepalive_close_time - KEEPALIVE_SECONDS

    @property
    def has_been_served(self) -> bool:
        """See `Connection`."""
        return self._request_count > 0

    def cut(self) -> None:
        """See `Connection`."""
        if self._transport is not None:
            self._transport.abort()

    def end_where_overdue(self, now: float) -> str | None:
        """See `Connection`."""
        if self._transport is None:
            return None
        if self._is_answer_stuck(now, self._transport.get_write_buffer_size()):
            self.cut()
            return "answer"
        if self._head_since is not None and now - self._head_since > HEAD_SECONDS:
            if self._head_bytes:
                self._refuse(408)
            else:
                self.force_close()
            self._head_since = None
            return "head_seconds"
        return None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins to serve."""
        self._transport = cast("asyncio.Transport", transport)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Ends it."""
        self._transport = None
        self._connections.remove(self)
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """The client has taken most of what waited for it: what is written next is looked at anew."""
        self._answer_left = 0
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Parses what has come, if it is not part of a head that is too long."""
        if len(data) > PIECE_BYTES:
            for start in range(0, len(data), PIECE_BYTES):
                self.data_received(data[start : start + PIECE_BYTES])
            return
        if self._is_refused:
            return
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._body = self._messages[-1][1]
            self._head_bytes, self._head_since = 0, None
        elif data and self._body.is_eof() and not self._buffer_paused and not self._upgraded:
            self._more_of_a_head(len(data))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it repeats parts of the request, which may hold a password
    ) -> web.StreamResponse:
        """Answers what is not HTTP, or fails outside of the application."""
        if request.writer.output_size > 0:
            raise ConnectionError("An answer has begun; there can be no other.") from exc
        if REQUEST_ID not in request:
            request[REQUEST_ID] = new_request_id()
        problem = _problem_of(status, exc)
        if isinstance(problem, InternalError):
            logger.error("Request %s failed", request[REQUEST_ID], exc_info=exc)
        response = problem_response(request, problem, status=max(status, problem.status))
        set_common_headers(response, request[REQUEST_ID])
        response.force_close()
        # aiohttp takes what it could not parse for HTTP/1.0, and leaves this out.
        response.headers["Connection"] = "close"
        return response

    def _more_of_a_head(self, size: int) -> None:
        if self._head_since is None:
            self._head_since = self._loop.time()
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES_MAX:
            self._connections.ended["head_bytes"] += 1
            self._refuse(431)

    def _refuse(self, status: int) -> None:
        """Answers so, behind what came before, and hears no more of it."""
        self._is_refused = True
        self._head_since = None
        self._messages.append((_ErrInfo(status, ValueError(status), ""), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _is_answer_stuck(self, now: float, left: int) -> bool:
        """Whether of the answers too little was taken since it was looked at last; new requests show that some were."""
        if left and self._request_count == self._requests_seen and self._answer_left:
            if now - self._answer_looked_at < ANSWER_SECONDS:
                return False
            if left > self._answer_left - ANSWER_BYTES_MIN:
                return True
        self._answer_left, self._answer_looked_at, self._requests_seen = left, now, self._request_count
        return False


def _problem_of(status: int, error: BaseException | None) -> Problem:
    if status == 408:
        return RequestTimeout("The request did not arrive in time")
    if status == 431 or isinstance(error, LineTooLong):
        return HeadTooLarge(f"The request line and the headers must be at most {HEAD_BYTES_MAX} bytes long")
    return InternalError() if status >= 500 else InvalidRequest("The request is not valid HTTP")
