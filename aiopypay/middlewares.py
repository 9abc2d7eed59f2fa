"""What every request passes: its id, the rendering of problems, the count."""

import json
import logging
import re
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Handler

from aiopypay import errors
from aiopypay.metrics import Metrics
from aiopypay.pieces import in_pieces
from aiopypay.random_ids import random_bytes
from aiopypay.stand_in.mode import Mode, ModeSwitch

logger = logging.getLogger(__name__)

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
METRICS: web.AppKey[Metrics] = web.AppKey("metrics", Metrics)
MODE: web.AppKey[ModeSwitch] = web.AppKey("mode", ModeSwitch)

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_PROBLEM_OF_STATUS: dict[int, type[errors.Problem]] = {
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.PayloadTooLarge,
    415: errors.UnsupportedMediaType,
}
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


Server = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def identified(handler: Server) -> Server:
    """Gives each request an id: the client's, where it sent a sane one.

    It stands around the whole application: aiohttp meets an Expect header before any middleware.
    """

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        sent = request.headers.get("X-Request-ID")
        request[REQUEST_ID] = sent if sent and _SANE_REQUEST_ID.fullmatch(sent) else new_request_id()
        try:
            return await handler(request)
        except web.HTTPExpectationFailed as error:
            problem = errors.InvalidRequest("Expect: cannot be met", field="Expect")
            return problem_response(request, problem, status=error.status)

    return handle


@web.middleware
async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Counts the request and its time, by route (never by path: paths hold ids)."""
    started = time.perf_counter()
    response = await handler(request)
    resource = request.match_info.route.resource
    route = resource.canonical if resource else "none"
    method = request.method if request.method in _METHODS else "other"
    request.app[METRICS].observe(method, route, response.status, time.perf_counter() - started)
    return response


@web.middleware
async def problem_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Renders every error as application/problem+json (RFC 9457), the one place that does."""
    try:
        return await handler(request)
    except errors.Problem as problem:
        if isinstance(problem, errors.InternalError):
            logger.exception("Request %s failed", request[REQUEST_ID])
        return problem_response(request, _told(request, problem))
    except web.HTTPException as error:
        return problem_response(request, _problem_of(error), status=error.status, allow=error.headers.get("Allow"))
    except Exception:
        logger.exception("Request %s failed", request[REQUEST_ID])
        return problem_response(request, errors.InternalError())


def _told(request: web.Request, problem: errors.Problem) -> errors.Problem:
    """Returns the problem as it is told to this request, with the time after which to try again."""
    if request.method in ("GET", "HEAD"):
        problem = problem.for_readers()
    if isinstance(problem, errors.DatabaseUnavailable):
        least = problem.retry_after_seconds or 1
        problem.retry_after_seconds = max(least, request.app[MODE].retry_after_seconds)
    return problem


def problem_response(
    request: web.BaseRequest, problem: errors.Problem, *, status: int | None = None, allow: str | None = None
) -> web.Response:
    """Returns the response that tells the client of a problem."""
    status = status or problem.status
    body = json.dumps(problem.members(request.get(REQUEST_ID), status)).encode()
    response = web.Response(body=body, status=status, content_type="application/problem+json")
    if status == 408:
        # Whatever still comes of the request is nobody's.
        response.force_close()
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="aiopypay", charset="UTF-8"'
    if problem.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(problem.retry_after_seconds)
    if problem.location is not None:
        response.headers["Location"] = problem.location
    if allow:
        response.headers["Allow"] = allow
    return response


async def set_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Sets what every response carries (a signal, so that it meets those made outside handlers, too)."""
    set_common_headers(response, request[REQUEST_ID])
    in_pieces(response)
    if request.app[MODE].mode is not Mode.ONLINE:
        response.headers["Aiopypay-Mode"] = "stand-in"


def set_common_headers(response: web.StreamResponse, request_id: str) -> None:
    """Sets the headers that stand on every response, in every mode."""
    headers = response.headers
    headers["X-Request-ID"] = request_id
    headers["Cache-Control"] = "no-store"
    headers["X-Content-Type-Options"] = "nosniff"


def new_request_id() -> str:
    """Returns an id for a request that came without one."""
    return random_bytes().hex()


def _problem_of(error: web.HTTPException) -> errors.Problem:
    kind = _PROBLEM_OF_STATUS.get(error.status)
    if kind is not None:
        return kind("There is nothing under this address" if error.status == 404 else f"{error.reason}")
    return errors.InvalidRequest(error.reason) if error.status < 500 else errors.InternalError()
