"""GET /users/{user_id}/orders/{order_id}."""

import re
from uuid import uuid4

import pytest

from tests import ledger
from tests.client import Caller, Service

RFC_3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


async def test_an_order_is_found_where_its_receipt_says(service: Service, alice: Caller) -> None:
    answer = await alice.pay(await service.register(), "10")
    order = (await alice.get(answer.headers["Location"])).ok()
    assert list(order) == ["order_id", "status", "accepted_at", "posted_at", "reason", "transfers"]
    assert order["order_id"] == answer.ok()["order_id"]
    assert (order["status"], order["reason"]) == ("posted", None)
    assert order["transfers"] == answer.ok()["transfers"]
    assert RFC_3339_UTC.fullmatch(order["accepted_at"])
    assert RFC_3339_UTC.fullmatch(order["posted_at"])


async def test_every_answer_about_an_order_has_its_location(service: Service, alice: Caller) -> None:
    answer = await alice.pay(await service.register(), "10", key="rent")
    location = answer.headers["Location"]
    assert (await alice.get(location)).headers["Location"] == location
    assert (await alice.pay(await service.register(), "10")).headers["Location"] != location


async def test_an_order_keeps_its_receipt_whatever_comes_after(service: Service, alice: Caller) -> None:
    bob = await service.register()
    location = (await alice.pay(bob, "10")).headers["Location"]
    before = (await alice.get(location)).ok()
    (await alice.pay(bob, "20")).ok()
    assert (await alice.get(location)).ok() == before


async def test_nobody_reads_anothers_order(service: Service, alice: Caller) -> None:
    bob = await service.register()
    order_id = (await alice.pay(bob, "10")).ok()["order_id"]
    (await bob.get(f"/users/{alice.id}/orders/{order_id}")).problem(403, "forbidden")
    # Not even the payee learns that it exists.
    (await bob.get(f"/users/{bob.id}/orders/{order_id}")).problem(404, "not-found")
    (await service.get(f"/users/{alice.id}/orders/{order_id}")).problem(401)


async def test_a_refused_order_shows_why(service: Service, alice: Caller) -> None:
    order_id = str(uuid4())
    ledger.query(
        service.database_url,
        "INSERT INTO orders (id, user_id, fingerprint, status, accepted_at, reason)"
        " VALUES (%s, %s, '', 'refused', now(), 'insufficient-funds')",
        (order_id, alice.id),
    )
    order = (await alice.get(f"/users/{alice.id}/orders/{order_id}")).ok()
    assert (order["status"], order["reason"], order["posted_at"]) == ("refused", "insufficient-funds", None)
    assert order["transfers"] == []


@pytest.mark.parametrize("order_id", [str(uuid4()), "1", "x", "00000000-0000-0000-0000-00000000000g", "%00", ""])
async def test_an_unknown_order_is_not_found(alice: Caller, order_id: str) -> None:
    (await alice.get(f"/users/{alice.id}/orders/{order_id}")).problem(404, "not-found")
