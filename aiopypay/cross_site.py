"""Which pages of browsers may use the service, and how.

A browser sends the password that it keeps for this service along with whatever any site's page asks it to send. So
what changes something is judged by the head alone, before the body is read and before anybody is authenticated: it must
come from a page of this host, or from no browser at all, or from an origin that the operator has listed.

Pages of listed origins may read the answers, too (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol), every one:
problems, unknown addresses, what is refused by method. aiohttp-cors 0.8 works by route: it tells them nothing where
there is none, never sets `Vary`, and adds an OPTIONS route to each address.
"""

import re
from collections.abc import Awaitable, Callable, Collection, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from aiopypay.asked_host import asked_host
from aiopypay.errors import CrossSite
from aiopypay.settings import Network

# RFC 9110, 9.2.1. What is not known to be safe is not.
SAFE_METHODS = {"GET", "HEAD", "OPTIONS", "TRACE"}
# `none`: the person asked for it, not a page.
OWN_SITE = {"same-origin", "none"}

ALLOWED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, Prefer, Last-Event-ID, X-Request-ID"
EXPOSED_HEADERS = (
    "Link, Location, Retry-After, Aiopypay-Mode, X-Request-ID, Preference-Applied, Content-Disposition, "
    "WWW-Authenticate"
)
# As long as any browser remembers it (Chromium: two hours).
PREFLIGHT_SECONDS = 7200

_ORIGIN = re.compile(r"(https?)://([^/]+)")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}

Signal = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


def guard(listed: Collection[str], trusted: Sequence[Network]) -> Middleware:
    """Returns the middleware that refuses other sites' writes and answers preflights of the `listed` origins.

    It raises CrossSite. `trusted` are the proxies whose forwarded host counts.
    """

    @web.middleware
    async def keep_other_sites_out(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in SAFE_METHODS:
            _check(request, listed, trusted)
        elif listed and _is_preflight(request, listed):
            return web.Response(status=204, headers=_PREFLIGHT)
        return await handler(request)

    return keep_other_sites_out


def tell(listed: Collection[str]) -> Signal:
    """Returns the signal that lets pages of the `listed` origins read an answer.

    Not in credentials mode: such a page sends a token, never what the browser keeps.
    """

    async def set_headers(request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        headers.add("Vary", "Origin")
        origin = request.headers.get("Origin")
        if origin is not None and origin in listed:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS

    return set_headers


_PREFLIGHT = {
    "Access-Control-Allow-Methods": ALLOWED_METHODS,
    "Access-Control-Allow-Headers": ALLOWED_HEADERS,
    "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
}


def _is_preflight(request: web.Request, listed: Collection[str]) -> bool:
    headers = request.headers
    return (
        request.method == "OPTIONS" and "Access-Control-Request-Method" in headers and headers.get("Origin") in listed
    )


def _check(request: web.Request, listed: Collection[str], trusted: Sequence[Network]) -> None:
    headers = request.headers
    if "Origin" not in headers and "Sec-Fetch-Site" not in headers:
        # No browser.
        return
    origins = headers.getall("Origin", ())
    if len(origins) == 1 and origins[0] in listed:
        return
    if not OWN_SITE.issuperset(headers.getall("Sec-Fetch-Site", ())):
        raise CrossSite("Sec-Fetch-Site: a page of another site may not ask for this", field="Sec-Fetch-Site")
    if not origins:
        return
    host = asked_host(request, trusted)
    if len(origins) > 1 or host is None or not _is_same(origins[0], host):
        raise CrossSite("Origin: a page of another site than the host may not ask for this", field="Origin")


def _is_same(origin: str, host: str) -> bool:
    """Tells whether host and port are the same. The scheme may differ: TLS ends at a proxy."""
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return False
    default_port = _DEFAULT_PORTS[match[1]]
    return match[2].removesuffix(default_port).lower() == host.removesuffix(default_port).lower()
