"""GET /health, /health/ready and /metrics: they answer without a database, and without the node's disk."""

from typing import Literal

import msgspec
from aiohttp import web

from aiopypay import __version__
from aiopypay.answers import about, answers, described
from aiopypay.errors import DiskHangs, OfflineDiskFloor, OfflineHoursCap, OfflineOrdersCap, Overloaded, StandInFenced
from aiopypay.handlers import GROUP_COMMIT, STAND_IN
from aiopypay.metrics import CONTENT_TYPE
from aiopypay.middlewares import METRICS
from aiopypay.representations import Time, json_response
from aiopypay.stand_in.lifecycle import Report

routes = web.RouteTableDef()

_UNREADY = (Overloaded, DiskHangs, StandInFenced, OfflineDiskFloor, OfflineOrdersCap, OfflineHoursCap)


@about(
    "What was accepted while the database was away and is not yet booked.",
    pending="How many orders.",
    oldest="When the first of them was accepted; null where there is none.",
)
class JournalBody(msgspec.Struct):
    """Orders accepted and not yet booked; `oldest` is when the first of them was accepted."""

    pending: int
    oldest: Time | None


@about(
    "How the node is.",
    status="`ok`, or `attention` where an operator must see to something.",
    mode=(
        "`online`, `stand-in` (the database is away) or `settling` (it is back, and what was accepted meanwhile "
        "is being booked)."
    ),
    since="Since when it is in this mode.",
    journal="What is not yet booked.",
    lease="Whether this node is the one that stands in for the database when it is away.",
    fenced="Why the node could not stand in, even with the lease; null where it could.",
    disk=(
        "What is wrong with the node's disk; null where nothing is. While it does not answer nothing is booked or "
        "changed here; while it has too little room no orders are accepted without the database."
    ),
    settling_waits_for=(
        "What keeps the journal from being booked until an operator sees to it; null where nothing does."
    ),
    refused_at_settling="How many orders were accepted without the database and refused when they were to be booked.",
    refused_after_changes_elsewhere=(
        "How many of these were on accounts that somebody changed in SQL just before the database was lost, or "
        "while it was."
    ),
    database_roles=(
        "`separate` where the service's role in the database cannot switch off what keeps history as it is, `one` "
        "where it can; null while that is not known."
    ),
    remembered="What the node knows without the database: `complete` says whether that is all it needs.",
    version="The service's version.",
)
class HealthBody(msgspec.Struct):
    """How the node is.

    `fenced` says why it would not stand in even with the lease; `disk` that its disk does not answer, so that nothing
    is booked, or has too little room, so that no orders are accepted without the database; `settling_waits_for` what
    the operator must see to. `refused_after_changes_elsewhere` counts, among what was refused at settling, orders on
    accounts that were changed in SQL just before the database was lost or while it was. `database_roles` is `separate`
    where the service's role cannot switch off what keeps history as it is, `one` where it can, for it owns the tables
    (APP_MIGRATION_URL), null before the database was met.
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
@described("Read the node's health", "For operators. 200 while the process serves, with or without its database.")
@answers(200, HealthBody, database=False)
async def get_health(request: web.Request) -> web.Response:
    """200 while the process serves."""
    return json_response(_body(request.app[STAND_IN].report()))


@about("The node is ready.", status="`ready`.", mode="As in `/health`.")
class ReadyBody(msgspec.Struct):
    """An order sent now is judged: booked, accepted or refused by rule. `mode` as in /health."""

    status: str
    mode: str


@routes.get("/health/ready")
@described(
    "Ask whether an order would be judged now",
    "For load balancers. 200 where it would, else the 503 that it would get.",
)
@answers(200, ReadyBody, database=False, problems=_UNREADY)
async def get_ready(request: web.Request) -> web.Response:
    """200 where an order sent now would be judged, else the 503 that it would get. For load balancers."""
    refusal = request.app[GROUP_COMMIT].refusal()
    if refusal is not None:
        raise refusal
    return json_response(ReadyBody("ready", request.app[STAND_IN].report().mode))


@routes.get("/metrics")
@described("Read metrics", "For operators: Prometheus' text format.")
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
