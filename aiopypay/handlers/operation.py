"""GET /health and GET /metrics: both answer without a database."""

from typing import Literal

import msgspec
from aiohttp import web

from aiopypay import __version__
from aiopypay.answers import answers
from aiopypay.handlers import STAND_IN
from aiopypay.metrics import CONTENT_TYPE
from aiopypay.middlewares import METRICS
from aiopypay.representations import Time, json_response
from aiopypay.stand_in.lifecycle import Report

routes = web.RouteTableDef()


class JournalBody(msgspec.Struct):
    """Orders accepted and not yet booked; `oldest` is when the first of them was accepted."""

    pending: int
    oldest: Time | None


class HealthBody(msgspec.Struct):
    """How the node is.

    `fenced` says why it would not stand in, `disk` that its disk does not answer and nothing is booked until it does,
    `settling_waits_for` what the operator must see to. `refused_after_changes_elsewhere` counts, among what was refused
    at settling, orders on accounts that were changed in SQL just before the database was lost or while it was.
    `database_roles` is `separate` where the service's role cannot switch off what keeps history as it is, `one` where
    it can, for it owns the tables (APP_MIGRATION_URL), null before the database was met.
    """

    status: str
    mode: str
    since: Time
    journal: JournalBody
    lease: bool
    fenced: str | None
    disk: str | None
    settling_waits_for: str | None
    refused_at_settling: int
    refused_after_changes_elsewhere: int
    remembered: dict[str, int | bool]
    database_roles: Literal["separate", "one"] | None
    version: str


@routes.get("/health")
@answers(200, HealthBody, database=False)
async def get_health(request: web.Request) -> web.Response:
    """200 while the process serves."""
    return json_response(_body(request.app[STAND_IN].report()))


@routes.get("/metrics")
@answers(200, str, media_type="text/plain", database=False)
async def get_metrics(request: web.Request) -> web.Response:
    """Prometheus' text format."""
    return web.Response(body=request.app[METRICS].text(), headers={"Content-Type": CONTENT_TYPE})


def _body(report: Report) -> HealthBody:
    troubled = any(trouble is not None for trouble in (report.settling_waits_for, report.fenced, report.disk))
    return HealthBody(
        status="attention" if troubled else "ok",
        mode=report.mode,
        since=report.since,
        journal=JournalBody(report.pending, report.oldest),
        lease=report.holds_lease,
        fenced=report.fenced,
        disk=report.disk,
        settling_waits_for=report.settling_waits_for,
        refused_at_settling=report.refused,
        refused_after_changes_elsewhere=report.refused_elsewhere,
        remembered=report.remembered,
        database_roles=_roles(report.owns_tables),
        version=__version__,
    )


def _roles(owns_tables: bool | None) -> Literal["separate", "one"] | None:
    if owns_tables is None:
        return None
    return "one" if owns_tables else "separate"
