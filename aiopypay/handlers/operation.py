"""GET /health and GET /metrics: both answer without a database."""

from aiohttp import web

from aiopypay import __version__
from aiopypay.metrics import CONTENT_TYPE
from aiopypay.middlewares import METRICS
from aiopypay.representations import json_response

routes = web.RouteTableDef()


@routes.get("/health")
async def get_health(_: web.Request) -> web.Response:
    """200 while the process serves."""
    journal = {"pending": 0, "oldest": None}
    return json_response({"status": "ok", "mode": "online", "journal": journal, "version": __version__})


@routes.get("/metrics")
async def get_metrics(request: web.Request) -> web.Response:
    """Prometheus' text format."""
    return web.Response(body=request.app[METRICS].text(), headers={"Content-Type": CONTENT_TYPE})
