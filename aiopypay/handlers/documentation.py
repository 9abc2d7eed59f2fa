"""What the service says of itself: the OpenAPI document, and Swagger UI from files of ours. No database is asked."""

import re
from importlib.resources import files
from typing import Any

from aiohttp import web

from aiopypay.answers import Header, answers, described

routes = web.RouteTableDef()

# The document as JSON. The application sets it when all routes are there.
DOCUMENT: web.AppKey[bytes] = web.AppKey("document", bytes)

# Nothing may load but what is served here; Swagger UI draws its icons from data URLs.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

_NO_QUALITY = re.compile(r"\bq=0(?:\.0*)?(?:\s|;|$)")
_FOLDER = files("aiopypay.openapi")
_PAGE = (_FOLDER / "page" / "index.html").read_bytes()
_START = (_FOLDER / "page" / "start.js").read_bytes()
_BUNDLE = (_FOLDER / "swagger_ui" / "swagger-ui-bundle.js").read_bytes()
_STYLES = (_FOLDER / "swagger_ui" / "swagger-ui.css").read_bytes()
_ICON = (_FOLDER / "swagger_ui" / "favicon-32x32.png").read_bytes()


@routes.get("/")
@answers(
    302,
    headers=(Header("Location", "`/docs` for browsers, `/openapi.json` for anybody else."),),
    database=False,
    documented=False,
)
async def get_root(request: web.Request) -> web.Response:
    """Leads browsers (`Accept: text/html`) to the page, and anybody else to this document."""
    page = "/docs" if _accepts_html(request) else "/openapi.json"
    return web.Response(status=302, headers={"Location": page, "Vary": "Accept"})


@routes.get("/openapi.json")
@described("Read this document", "The OpenAPI document of this service.")
@answers(200, dict[str, Any], database=False)
async def get_document(request: web.Request) -> web.Response:
    """This document."""
    return web.Response(body=request.app[DOCUMENT], content_type="application/json", charset="utf-8")


@routes.get("/docs")
@described("Open this page", "This document, to read and to try.")
@answers(200, str, media_type="text/html", database=False)
async def get_page(_: web.Request) -> web.Response:
    """Swagger UI: this document, to read and to try."""
    headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Referrer-Policy": "same-origin"}
    return web.Response(body=_PAGE, content_type="text/html", charset="utf-8", headers=headers)


@routes.get("/docs/start.js")
@answers(200, str, media_type="text/javascript", database=False, documented=False)
async def get_start(_: web.Request) -> web.Response:
    """The script that starts Swagger UI."""
    return web.Response(body=_START, content_type="text/javascript", charset="utf-8")


@routes.get("/docs/swagger-ui-bundle.js")
@answers(200, str, media_type="text/javascript", database=False, documented=False)
async def get_bundle(_: web.Request) -> web.Response:
    """Swagger UI itself."""
    return web.Response(body=_BUNDLE, content_type="text/javascript", charset="utf-8")


@routes.get("/docs/swagger-ui.css")
@answers(200, str, media_type="text/css", database=False, documented=False)
async def get_styles(_: web.Request) -> web.Response:
    """The page's styles."""
    return web.Response(body=_STYLES, content_type="text/css", charset="utf-8")


@routes.get("/docs/favicon-32x32.png")
@answers(200, bytes, media_type="image/png", database=False, documented=False)
async def get_icon(_: web.Request) -> web.Response:
    """The page's icon."""
    return web.Response(body=_ICON, content_type="image/png")


def _accepts_html(request: web.Request) -> bool:
    ranges = ",".join(request.headers.getall("Accept", ())).lower().split(",")
    named = [item.partition(";") for item in ranges]
    return any(kind.strip() == "text/html" and not _NO_QUALITY.search(rest) for kind, _, rest in named)
