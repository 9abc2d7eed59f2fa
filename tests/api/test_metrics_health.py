"""GET /health and GET /metrics: for operators, with or without a database."""

import asyncio
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from psycopg2.extensions import parse_dsn

from aiopypay import __version__
from aiopypay.embedded import EmbeddedPostgres
from aiopypay.settings import Settings
from tests import ledger
from tests.client import Answer, Service
from tests.cluster import administration_dsn
from tests.conftest import StartService, with_credit


def lose_database(service: Service, postgres: EmbeddedPostgres) -> None:
    name = parse_dsn(service.database_url)["dbname"]
    ledger.query(administration_dsn(postgres), f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    ledger.query(
        administration_dsn(postgres), f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    )


@pytest.fixture
def lonely_service(service: Service, postgres: EmbeddedPostgres) -> Service:
    """A service whose database has gone away."""
    lose_database(service, postgres)
    return service


def requests_counted(answer: Answer) -> dict[tuple[str, str, str], float]:
    return {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == "aiopypay_requests_total"
    }


async def test_health_tells_the_documented_members(service: Service) -> None:
    health = (await service.get("/health")).ok()
    assert {"status", "mode", "journal", "version"} <= health.keys()
    assert health["mode"] == "online"
    assert health["journal"] == {"pending": 0, "oldest": None}
    assert health["version"] == __version__


async def test_health_counts_what_is_remembered_now(service: Service) -> None:
    alice, bob = await service.register(), await service.register()
    ledger.deposit(service.database_url, alice.accounts["USD"], "100")
    async with asyncio.timeout(10):
        while (remembered := await _remembered(service))["uncertain"] or not remembered["complete"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert remembered["users"] == 3
    (await alice.pay(bob, "1")).ok()
    async with asyncio.timeout(10):
        # What was booked is remembered a moment later, and nobody waits for the disk to know of it.
        while (after := await _remembered(service))["orders"] == remembered["orders"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert after["orders"] == remembered["orders"] + 1
    assert after["accounts"] >= 9


async def _remembered(service: Service) -> dict[str, int]:
    counts: dict[str, int] = (await service.get("/health")).ok()["remembered"]
    return counts


async def test_metrics_are_prometheus_text(service: Service) -> None:
    answer = await service.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    answer.has_common_headers()
    assert list(text_string_to_metric_families(answer.text))


async def test_requests_are_counted_by_method_route_and_status(service: Service) -> None:
    caller = await service.register()
    for account_id in caller.accounts.values():
        (await caller.get(f"/accounts/{account_id}")).ok()
    await caller.get("/accounts/99999999")
    counted = requests_counted(await service.get("/metrics"))
    assert counted["POST", "/users", "201"] == 1
    assert counted["GET", "/accounts/{account_id}", "200"] == 3
    assert counted["GET", "/accounts/{account_id}", "404"] == 1


async def test_what_clients_invent_adds_no_series(service: Service) -> None:
    for number in range(5):
        await service.get(f"/nowhere/{number}")
        await service.request("PROPFIND", f"/nowhere/{number}")
    counted = requests_counted(await service.get("/metrics"))
    assert len([labels for labels in counted if labels[2] == "404"]) == 2


async def test_metrics_hold_no_users_and_no_ids(service: Service) -> None:
    caller = await service.register("a-rare-name")
    await caller.history()
    text = (await service.get("/metrics")).text
    assert "a-rare-name" not in text
    assert f"/users/{caller.id}/" not in text


@pytest.mark.parametrize("path", ["/health", "/metrics", "/openapi.json", "/docs", "/docs/swagger-ui-bundle.js"])
async def test_they_answer_without_a_database_and_so_does_the_documentation(lonely_service: Service, path: str) -> None:
    answer = await lonely_service.get(path)
    assert answer.status == 200
    answer.has_common_headers()


async def _is_complete(service: Service) -> None:
    """Waits until the service remembers all."""
    async with asyncio.timeout(10):
        while not (await _remembered(service))["complete"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_ready_says_what_an_order_would_be_told(service: Service, postgres: EmbeddedPostgres) -> None:
    alice, bob = await service.register(), await service.register()
    assert (await service.get("/health/ready")).ok() == {"status": "ready", "mode": "online"}
    await _is_complete(service)
    lose_database(service, postgres)
    paid, ready = await alice.pay(bob, "1"), await service.get("/health/ready")
    assert paid.status == 402
    assert ready.ok() == {"status": "ready", "mode": "stand-in"}
    ready.has_common_headers()


async def test_where_it_is_not_it_says_why(
    start_service: StartService, settings: Settings, postgres: EmbeddedPostgres
) -> None:
    """Although it is a GET, which is not told of orders otherwise."""
    settings = replace(with_credit(settings, USD="10"), offline=replace(settings.offline, min_free_bytes=2**60))
    service = await start_service(settings)
    alice, bob = await service.register(), await service.register()
    await _is_complete(service)
    lose_database(service, postgres)
    paid, ready = await alice.pay(bob, "1"), await service.get("/health/ready")
    told = paid.problem(503, "offline-disk-floor")
    assert {**ready.problem(503, "offline-disk-floor"), "instance": None} == {**told, "instance": None}
    assert ready.headers["Retry-After"] == paid.headers["Retry-After"]


async def test_a_change_of_users_needs_the_database(lonely_service: Service) -> None:
    form = {"username": "vasya", "password": "correct horse"}
    (await lonely_service.post("/users", form=form)).problem(503, "database-unavailable")
    (await lonely_service.get("/nowhere")).problem(404)


async def test_refusals_at_settling_are_told_to_both(service: Service) -> None:
    health = (await service.get("/health")).ok()
    assert (health["refused_at_settling"], health["refused_after_changes_elsewhere"]) == (0, 0)
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families((await service.get("/metrics")).text)
        for sample in family.samples
    }
    assert samples["aiopypay_refused_at_settling_total"] == 0
    assert samples["aiopypay_refused_after_changes_elsewhere_total"] == 0
