"""`Prefer: money=string`: amounts that survive JavaScript."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from aiopypay.answers import traits_of
from aiopypay.app import create_app
from aiopypay.representations import CurrencyBody
from aiopypay.settings import Settings
from tests.client import Answer, Caller

STRINGS = {"Prefer": "money=string"}
# What the tests below ask, by the names of the handlers.
ASKED = {
    "get_account",
    "get_my_balance",
    "get_order",
    "list_accounts",
    "list_transfers",
    "post_account",
    "post_balance",
    "post_transfer",
    "post_transfers",
}


def as_strings(document: Any) -> Any:
    """The document with its amounts, digit for digit, as strings."""
    if isinstance(document, dict):
        return {name: as_strings(member) for name, member in document.items()}
    if isinstance(document, list):
        return [as_strings(member) for member in document]
    return str(document) if isinstance(document, Decimal) else document


def is_applied(answer: Answer) -> bool:
    """Whether the answer says that it follows the preference."""
    return answer.headers.get("Preference-Applied") == "money=string" and "Prefer" in answer.headers.getall("Vary", ())


def test_every_route_that_tells_amounts_is_asked() -> None:
    def tells(body: Any) -> bool:
        if isinstance(body, type) and issubclass(body, msgspec.Struct):
            return body is not CurrencyBody and any(map(tells, get_type_hints(body).values()))
        return body is Decimal or any(map(tells, get_args(body)))

    router = create_app(Settings(database_url="postgresql://nobody@127.0.0.1:9/nothing")).router
    telling = {
        route.handler.__name__
        for route in router.routes()
        if any(tells(answer.body) for answer in traits_of(route.handler).answers)
    }
    assert telling == ASKED


async def test_reads_tell_strings_of_the_same_digits(alice: Caller, bob: Caller) -> None:
    receipt = await alice.pay(bob, "10.50")
    paths = [
        f"/users/{alice.id}/accounts",
        f"/accounts/{alice.accounts['USD']}",
        f"/users/{alice.id}/transfers",
        receipt.headers["Location"],
        "/api/balances/my",
    ]
    for path in paths:
        plain, strings = await alice.get(path), await alice.get(path, headers=STRINGS)
        assert strings.ok() == as_strings(plain.ok()) != plain.ok()
        assert is_applied(strings)
        assert not {"Vary", "Preference-Applied"} & set(plain.headers)
    account = (await alice.get(f"/accounts/{alice.accounts['USD']}", headers=STRINGS)).ok()
    assert account["amount"] == "89.39"
    assert isinstance(account["id"], int)


def orders(alice: Caller, bob: Caller) -> Iterator[tuple[str, Any]]:
    """Path and document of each order."""
    transfer = {"from": alice.accounts["USD"], "to": bob.accounts["USD"], "amount": "1.10"}
    yield f"/users/{alice.id}/transfers", transfer
    yield "/api/balances", {"user_id": alice.id, "value": "420.69"}
    yield f"/users/{alice.id}/transfers/bulk", {"mode": "each", "transfers": [transfer, transfer | {"amount": 10**6}]}
    yield f"/users/{alice.id}/accounts/USD", None


async def test_orders_and_their_retries_do_too(alice: Caller, bob: Caller) -> None:
    for number, (path, document) in enumerate(orders(alice, bob)):
        key = f"order-{number}"
        first = await alice.post(path, document=document, key=key)
        retried = await alice.post(path, document=document, key=key, headers=STRINGS)
        assert retried.status == first.status
        told, before = retried.json(), as_strings(first.json())
        if path.endswith("/bulk"):
            # The problem of the second bears the id of its own request.
            assert before[1].pop("instance") != told[1].pop("instance")
        assert told == before
        assert is_applied(retried)
        anew = await alice.post(path, document=document, headers=STRINGS)
        assert is_applied(anew)
        assert set(map(type, amounts(anew.json()))) == {str}


def amounts(document: Any) -> Iterator[Any]:
    """Every amount in an answer."""
    if isinstance(document, dict):
        yield from (document[name] for name in ("amount", "balance", "value") if name in document)
    for member in document.values() if isinstance(document, dict) else document:
        if isinstance(member, dict | list):
            yield from amounts(member)


async def test_an_amount_without_decimals_is_a_string_and_a_rate_is_no_amount(admin: Caller, alice: Caller) -> None:
    document = {"id": "JPY", "description": "Japanese yen", "commission": "0.01", "decimals": 0}
    made = await admin.post("/currencies", document=document, headers=STRINGS)
    assert made.ok(201)["commission"] == Decimal("0.01")
    opened = await alice.post(f"/users/{alice.id}/accounts/JPY", headers=STRINGS)
    assert opened.ok()["amount"] == "0"
    currencies = await alice.get("/currencies", headers=STRINGS)
    assert {type(currency["commission"]) for currency in currencies.ok()} == {Decimal}
    assert not is_applied(currencies)


@pytest.mark.parametrize(
    ("preference", "applied"),
    [
        ("money=string", True),
        ('money="string"', True),
        ("Money = string", True),
        ("money=string; anything=else", True),
        ('return=minimal, handling="a,b", money=string', True),
        ("money=string, money=number", True),
        ("money=number, money=string", False),
        ("money=number", False),
        ("money", False),
        ("string", False),
        ('handling="money=string"', False),
        ('"', False),
        ("", False),
    ],
)
async def test_what_is_preferred(alice: Caller, preference: str, applied: bool) -> None:
    answer = await alice.get("/api/balances/my", headers={"Prefer": preference})
    assert answer.ok()["value"] == ("100.00" if applied else Decimal("100.00"))
    assert ("Preference-Applied" in answer.headers) is applied
    assert answer.headers["Vary"] == "Prefer"


async def test_a_refusal_is_a_problem_as_ever(alice: Caller, bob: Caller) -> None:
    transfer = {"from": alice.accounts["USD"], "to": bob.accounts["USD"], "amount": "1000"}
    answer = await alice.post(f"/users/{alice.id}/transfers", document=transfer, headers=STRINGS)
    assert set(answer.problem(402)) == {"type", "title", "status", "detail", "instance"}
