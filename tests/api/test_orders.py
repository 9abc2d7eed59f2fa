"""GET /users/{user_id}/orders/{order_id}."""

import re
from decimal import Decimal
from uuid import uuid4

import pytest

from aiopypay import idempotency
from aiopypay.transfer_orders import TransferForm, content_of
from tests import ledger
from tests.client import Caller, Service

RFC_3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

NOBODYS = "7d1f9a52-0c7e-4b53-9a53-0c5f0e8d7a11"


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


async def test_a_retry_of_a_refused_order_names_it_says_why_and_leads_to_it(service: Service, alice: Caller) -> None:
    bob = await service.register()
    form = TransferForm(alice.accounts["USD"], bob.accounts["USD"], Decimal(10))
    refused = idempotency.order_id(alice.id, "rent")
    ledger.query(
        service.database_url,
        "INSERT INTO orders (id, user_id, idempotency_key, fingerprint, status, accepted_at, reason)"
        " VALUES (%s, %s, 'rent', %s, 'refused', now(), 'gone')",
        (str(refused), alice.id, content_of(form)),
    )
    transfer = {"from": form.from_account_id, "to": form.to_account_id, "amount": 10, "key": "rent"}
    bulk = f"/users/{alice.id}/transfers/bulk"
    of_each = (await alice.post(bulk, document={"mode": "each", "transfers": [transfer]})).ok()
    of_all = await alice.post(bulk, document={"mode": "all", "transfers": [transfer]})
    for _ in range(2):
        answer = await alice.pay(bob, "10", key="rent")
        problem = answer.problem(409, "order-refused")
        assert (problem["order_id"], problem["reason"]) == (str(refused), "gone")
        assert answer.headers["Location"] == of_all.headers["Location"] == f"/users/{alice.id}/orders/{refused}"
        assert (await alice.get(answer.headers["Location"])).ok()["reason"] == "gone"
    for told in (of_each[0], of_all.problem(409, "order-refused")):
        assert (told["order_id"], told["reason"]) == (str(refused), "gone")


@pytest.mark.parametrize("order_id", [NOBODYS, "1", "x", "00000000-0000-0000-0000-00000000000g", "%00", ""])
async def test_an_unknown_order_is_not_found(alice: Caller, order_id: str) -> None:
    (await alice.get(f"/users/{alice.id}/orders/{order_id}")).problem(404, "not-found")
