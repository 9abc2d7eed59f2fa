"""Idempotency-Key: the same key and content is the same order, for good."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from multidict import CIMultiDict

from aiopypay.settings import Settings
from tests import ledger
from tests.client import Answer, Caller, Service
from tests.conftest import StartService

KEYS = [
    "rent-2024-05",
    "x",
    "x" * 255,
    "8e03978e-40d5-43dd-bc93-6894a57f9324",
    '"quoted"',
    "!#$%&'()*+,-./:;<=>?@[]^_`{|}~",
]


def payments(service: Service) -> int:
    return int(
        ledger.value(service.database_url, "SELECT count(*) FROM transfers WHERE kind IN ('payment', 'internal')")
    )


def receipt(answer: Answer) -> Any:
    return (answer.ok(), answer.headers["Location"], answer.body)


@pytest.mark.parametrize("key", KEYS)
async def test_a_retry_gets_the_original_receipt(service: Service, alice: Caller, bob: Caller, key: str) -> None:
    first = await alice.pay(bob, "10", key=key)
    assert receipt(await alice.pay(bob, "10", key=key)) == receipt(first)
    assert payments(service) == 1
    assert await alice.balance() == Decimal("89.90")


async def test_the_receipt_stays_as_it_was_whatever_came_after(alice: Caller, bob: Caller) -> None:
    first = await alice.pay(bob, "10", key="rent")
    (await alice.pay(bob, "10", key="other")).ok()
    (await alice.pay(bob, "10")).ok()
    assert receipt(await alice.pay(bob, "10", key="rent")) == receipt(first)


async def test_a_retry_needs_no_money(alice: Caller, bob: Caller) -> None:
    first = await alice.pay(bob, "99", key="rent")
    (await alice.pay(bob, "99")).problem(402)
    assert receipt(await alice.pay(bob, "99", key="rent")) == receipt(first)


async def test_other_keys_are_other_orders(service: Service, alice: Caller, bob: Caller) -> None:
    orders = {(await alice.pay(bob, "1", key=key)).ok()["order_id"] for key in ("rent", "Rent", "rent1", "tner")}
    assert len(orders) == 4
    assert payments(service) == 4


async def test_form_and_json_and_spellings_of_an_amount_are_one_content(alice: Caller, bob: Caller) -> None:
    first = await alice.pay(bob, "10", key="rent")
    assert receipt(await alice.pay(bob, "10.00", key="rent")) == receipt(first)
    document: dict[str, Any] = {"amount": "10.0", "to": bob.accounts["USD"], "from": str(alice.accounts["USD"])}
    answer = await alice.post(f"/users/{alice.id}/transfers", document=document, key="rent")
    assert receipt(answer) == receipt(first)
    answer = await alice.post(f"/users/{alice.id}/transfers", document=document | {"amount": 10}, key="rent")
    assert receipt(answer) == receipt(first)


async def test_another_content_under_the_same_key_is_refused(service: Service, alice: Caller, bob: Caller) -> None:
    first = await alice.pay(bob, "10", key="rent")
    before = ledger.counts(service.database_url)
    carol = await service.register()
    added = ledger.counts(service.database_url)
    for answer in (
        await alice.pay(bob, "10.01", key="rent"),
        await alice.pay(bob, "1000", key="rent"),
        await alice.pay(carol, "10", key="rent"),
        await alice.pay(bob, "10", key="rent", comment="rent"),
        await alice.transfer(alice.accounts["EUR"], bob.accounts["EUR"], "10", key="rent"),
        await alice.transfer(alice.accounts["USD"], 10**9, "10", key="rent"),
    ):
        answer.problem(422, "idempotency-key-reused")
    assert ledger.counts(service.database_url) == added != before
    assert receipt(await alice.pay(bob, "10", key="rent")) == receipt(first)


async def test_a_malformed_request_is_malformed_under_any_key(alice: Caller, bob: Caller) -> None:
    (await alice.pay(bob, "10", key="rent")).ok()
    (await alice.pay(bob, "ten", key="rent")).problem(400, field="amount")


async def test_a_refusal_does_not_burn_the_key(service: Service, alice: Caller, bob: Caller) -> None:
    mine, theirs = alice.accounts["USD"], bob.accounts["USD"]
    (await alice.transfer(mine, theirs, "100", key="k")).problem(402)
    (await alice.transfer(mine, 10**9, "1", key="k")).problem(400)
    (await alice.transfer(theirs, mine, "1", key="k")).problem(403)
    (await alice.transfer(mine, mine, "1", key="k")).problem(400)
    (await alice.transfer(mine, theirs, "1.001", key="k")).problem(400)
    assert (await alice.transfer(mine, theirs, "99", key="k")).ok()["balance"] == Decimal("0.01")
    ledger.assert_ledger_balances(service.database_url)


async def test_the_same_order_is_judged_anew_after_a_refusal(service: Service, alice: Caller, bob: Caller) -> None:
    (await alice.pay(bob, "100", key="k")).problem(402)
    (await alice.pay(bob, "100", key="k")).problem(402)
    ledger.deposit(service.database_url, alice.accounts["USD"], "1")
    assert (await alice.pay(bob, "100", key="k")).ok()["balance"] == 0


async def test_keys_belong_to_their_caller(service: Service, alice: Caller, bob: Caller) -> None:
    ledger.deposit(service.database_url, bob.accounts["USD"], "100")
    first, second = await alice.pay(bob, "10", key="rent"), await bob.pay(alice, "10", key="rent")
    assert first.ok()["order_id"] != second.ok()["order_id"]
    assert payments(service) == 2


@pytest.mark.parametrize("number", [2, 20])
async def test_concurrent_requests_with_one_key_book_once(
    service: Service, alice: Caller, bob: Caller, number: int
) -> None:
    answers = await asyncio.gather(*(alice.pay(bob, "10", key="rent") for _ in range(number)))
    assert len({answer.body for answer in answers}) == 1
    assert {answer.status for answer in answers} == {200}
    assert payments(service) == 1
    ledger.assert_ledger_balances(service.database_url)


async def test_of_concurrent_contents_under_one_key_one_is_booked(service: Service, alice: Caller, bob: Caller) -> None:
    answers = await asyncio.gather(*(alice.pay(bob, 1 + number % 2, key="rent") for number in range(20)))
    assert sorted(answer.status for answer in answers) == [200] * 10 + [422] * 10
    assert payments(service) == 1


async def test_a_retry_finds_what_another_instance_booked(
    start_service: StartService, settings: Settings, service: Service, alice: Caller, bob: Caller
) -> None:
    first = await alice.pay(bob, "10", key="rent")
    another = await start_service(settings)
    assert receipt(await alice.at(another).pay(bob, "10", key="rent")) == receipt(first)
    (await alice.at(another).pay(bob, "11", key="rent")).problem(422)
    assert payments(service) == 1


async def test_concurrent_requests_at_two_instances_book_once(
    start_service: StartService, settings: Settings, service: Service, alice: Caller, bob: Caller
) -> None:
    another = alice.at(await start_service(settings))
    await another.list_accounts()
    for key in ("a", "b", "c", "d", "e"):
        answers = await asyncio.gather(*(caller.pay(bob, "1", key=key) for caller in (alice, another) * 5))
        assert {answer.status for answer in answers} == {200}
        assert len({answer.body for answer in answers}) == 1
    assert payments(service) == 5
    ledger.assert_ledger_balances(service.database_url)


async def test_opening_an_account_happens_once_a_key(service: Service, alice: Caller) -> None:
    opened = (await alice.post(f"/users/{alice.id}/accounts/EUR", key="euros")).ok()
    assert (await alice.post(f"/users/{alice.id}/accounts/EUR", key="euros")).ok() == opened
    assert len(await alice.list_accounts()) == 4
    assert (await alice.post(f"/users/{alice.id}/accounts/EUR", key="more-euros")).ok()["id"] != opened["id"]


async def test_a_retried_opening_answers_what_it_answered(service: Service, alice: Caller) -> None:
    first = await alice.post(f"/users/{alice.id}/accounts/USD", key="dollars")
    (await alice.transfer(alice.accounts["USD"], first.ok()["id"], "10")).ok()
    assert (await alice.post(f"/users/{alice.id}/accounts/USD", key="dollars")).body == first.body


async def test_concurrent_openings_with_one_key_open_one(service: Service, alice: Caller) -> None:
    answers = await asyncio.gather(*(alice.post(f"/users/{alice.id}/accounts/USD", key="k") for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert len(await alice.list_accounts()) == 4


async def test_a_refused_opening_does_not_burn_the_key(alice: Caller) -> None:
    (await alice.post(f"/users/{alice.id}/accounts/YUP", key="k")).problem(400)
    (await alice.post(f"/users/{alice.id}/accounts/USD", key="k")).ok()
    (await alice.post(f"/users/{alice.id}/accounts/YUP", key="k")).problem(422)


async def test_a_key_is_one_for_all_routes(service: Service, alice: Caller, bob: Caller) -> None:
    (await alice.post(f"/users/{alice.id}/accounts/USD", key="account")).ok()
    (await alice.pay(bob, "10", key="account")).problem(422, "idempotency-key-reused")
    (await alice.pay(bob, "10", key="payment")).ok()
    (await alice.post(f"/users/{alice.id}/accounts/USD", key="payment")).problem(422, "idempotency-key-reused")
    (await alice.post(f"/users/{alice.id}/accounts/EUR", key="account")).problem(422, "idempotency-key-reused")
    assert payments(service) == 1


async def test_concurrent_use_of_one_key_on_two_routes_serves_one(alice: Caller, bob: Caller) -> None:
    for number in range(5):
        key = f"key-{number}"
        payment, opening = await asyncio.gather(
            alice.pay(bob, "1", key=key), alice.post(f"/users/{alice.id}/accounts/USD", key=key)
        )
        assert sorted((payment.status, opening.status)) == [200, 422]


@pytest.mark.parametrize("key", ["", "x" * 256, "two words", "tab\there", "ключ"])
async def test_a_malformed_key_is_refused(service: Service, alice: Caller, bob: Caller, key: str) -> None:
    before = ledger.counts(service.database_url)
    (await alice.pay(bob, "10", key=key)).problem(400, "invalid-request", field="Idempotency-Key")
    (await alice.post(f"/users/{alice.id}/accounts/USD", key=key)).problem(400, field="Idempotency-Key")
    assert ledger.counts(service.database_url) == before


async def test_a_repeated_key_is_refused(service: Service, alice: Caller, bob: Caller) -> None:
    headers = CIMultiDict([("Idempotency-Key", "rent"), ("Idempotency-Key", "rent")])
    form = {"from": alice.accounts["USD"], "to": bob.accounts["USD"], "amount": 10}
    answer = await alice.post(f"/users/{alice.id}/transfers", form=form, headers=headers)
    answer.problem(400, field="Idempotency-Key")
    assert payments(service) == 0
