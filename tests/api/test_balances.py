"""Deposits and withdrawals: orders like any other, with the bodies of client-transactions-api."""

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from aiopypay.settings import Settings
from tests import ledger
from tests.client import Answer, Caller, Service
from tests.conftest import SUPERUSER_PASSWORD, StartService

RFC_3339 = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"


async def order(caller: Caller, value: Any, *, user_id: Any = None, key: str | None = None, **fields: Any) -> Answer:
    form = {"user_id": caller.id if user_id is None else user_id, "value": value, **fields}
    return await caller.post("/api/balances", form=form, key=key)


async def my_balance(caller: Caller) -> Any:
    return (await caller.get("/api/balances/my")).ok()


def external_account(service: Service, currency_id: str = "USD") -> int:
    sql = "SELECT id FROM accounts WHERE currency_id = %s AND id < 0"
    return int(ledger.value(service.database_url, sql, (currency_id,)))


async def test_a_new_users_balance(service: Service) -> None:
    vasya = await service.register()
    answer = await vasya.get("/api/balances/my")
    body = answer.ok()
    assert answer.text.startswith(f'{{"user_id":{vasya.id},"value":0.00,"created_at":"')
    assert body == {
        "user_id": vasya.id,
        "value": Decimal("0.00"),
        "created_at": body["created_at"],
        "updated_at": None,
        "id": vasya.accounts["USD"],
    }


async def test_a_deposit_is_answered_with_the_balance_after_it(service: Service) -> None:
    vasya = await service.register()
    body = (await order(vasya, "420.69")).ok(201)
    assert (body["user_id"], body["value"], body["id"]) == (vasya.id, Decimal("420.69"), vasya.accounts["USD"])
    assert body["updated_at"] > body["created_at"]
    assert list(body) == ["user_id", "value", "created_at", "updated_at", "id"]
    assert await my_balance(vasya) == body
    ledger.assert_ledger_balances(service.database_url)


async def test_a_withdrawal_is_answered_with_the_balance_after_it(service: Service) -> None:
    vasya = await service.register()
    (await order(vasya, "420.69")).ok(201)
    body = (await order(vasya, "-420.68")).ok(201)
    assert str(body["value"]) == "0.01"
    assert await my_balance(vasya) == body
    ledger.assert_ledger_balances(service.database_url)


async def test_a_withdrawal_that_is_not_covered_books_nothing(service: Service) -> None:
    vasya = await service.register()
    (await order(vasya, "420.69")).ok(201)
    before = ledger.counts(service.database_url)
    problem = (await order(vasya, "-12312.17")).problem(402, "insufficient-funds")
    assert problem["detail"] == "Not enough funds (420.69) for a -12312.17 transaction!"
    assert ledger.counts(service.database_url) == before


async def test_the_last_cent_may_be_withdrawn_and_not_one_more(service: Service) -> None:
    vasya = await service.register()
    (await order(vasya, "1")).ok(201)
    (await order(vasya, "-1.01")).problem(402, "insufficient-funds")
    assert (await order(vasya, "-1")).ok(201)["value"] == 0


async def test_json_is_taken_like_a_form_and_never_through_a_float(service: Service) -> None:
    vasya = await service.register()
    for value in ("0.1", "0.2"):
        body = b'{"user_id":%d,"value":%s}' % (vasya.id, value.encode())
        answer = await vasya.post("/api/balances", body=body, headers={"Content-Type": "application/json"})
    assert '"value":0.30,' in answer.text


async def test_they_stand_in_the_users_transfers(service: Service) -> None:
    vasya = await service.register()
    (await order(vasya, "10")).ok(201)
    (await order(vasya, "-4")).ok(201)
    deposit, withdrawal = (await vasya.history()).ok()
    outside, own = external_account(service), vasya.accounts["USD"]
    assert (deposit["kind"], deposit["comment"], str(deposit["amount"])) == ("deposit", "Deposit", "10.00")
    assert (deposit["from_account_id"], deposit["to_account_id"]) == (outside, own)
    assert (withdrawal["kind"], withdrawal["comment"], str(withdrawal["amount"])) == (
        "withdrawal",
        "Withdrawal",
        "4.00",
    )
    assert (withdrawal["from_account_id"], withdrawal["to_account_id"]) == (own, outside)
    assert ledger.balance(service.database_url, outside) == -6


async def test_each_answer_says_where_the_order_is(service: Service) -> None:
    vasya = await service.register()
    answer = await order(vasya, "10")
    state = (await vasya.get(answer.headers["Location"])).ok()
    assert state["status"] == "posted"
    assert [transfer["kind"] for transfer in state["transfers"]] == ["deposit"]


async def test_no_commission_is_taken(service: Service) -> None:
    vasya = await service.register()
    (await order(vasya, "10")).ok(201)
    assert (await order(vasya, "-10")).ok(201)["value"] == 0


async def test_another_account_may_be_named(service: Service) -> None:
    vasya = await service.register()
    body = (await order(vasya, "7.50", account_id=vasya.accounts["EUR"])).ok(201)
    assert (body["id"], body["value"]) == (vasya.accounts["EUR"], Decimal("7.50"))
    assert (await my_balance(vasya))["value"] == 0
    assert ledger.balance(service.database_url, external_account(service, "EUR")) == Decimal("-7.50")
    ledger.assert_ledger_balances(service.database_url)


async def test_the_balance_is_the_first_account_in_the_base_currency(
    start_service: StartService, settings: Settings
) -> None:
    service = await start_service(replace(settings, base_currency="EUR"))
    vasya = await service.register()
    await vasya.open_account("EUR")
    assert (await order(vasya, "5")).ok(201)["id"] == vasya.accounts["EUR"]
    assert (await my_balance(vasya))["id"] == vasya.accounts["EUR"]


async def test_whoever_has_no_account_in_it_has_no_balance(start_service: StartService, settings: Settings) -> None:
    service = await start_service(replace(settings, base_currency="GBP"))
    vasya = await service.register()
    (await vasya.get("/api/balances/my")).problem(404, "not-found")
    (await order(vasya, "5")).problem(400, "unknown-account", field="user_id")


class TestWhoMay:
    """The user themselves, and an admin for anyone."""

    async def test_a_strangers_balance_is_not_touched(self, service: Service) -> None:
        vasya, frosya = await service.register(), await service.register()
        before = ledger.counts(service.database_url)
        for value in ("10", "-10"):
            (await order(vasya, value, user_id=frosya.id)).problem(403, "forbidden", field="user_id")
        (await order(vasya, "10", user_id=10**9)).problem(403, "forbidden", field="user_id")
        assert ledger.counts(service.database_url) == before

    async def test_nor_their_account_under_ones_own_name(self, service: Service) -> None:
        vasya, frosya = await service.register(), await service.register()
        (await order(frosya, "100")).ok(201)
        before = ledger.counts(service.database_url)
        for value in ("10", "-10"):
            answer = await order(vasya, value, account_id=frosya.accounts["USD"])
            assert "100" not in answer.problem(403, "forbidden", field="account_id")["detail"]
        assert ledger.counts(service.database_url) == before

    async def test_an_admin_may_for_anyone(self, service: Service) -> None:
        vasya, admin = await service.register(), await service.superuser(SUPERUSER_PASSWORD)
        answer = await order(admin, "10", user_id=vasya.id)
        body = answer.ok(201)
        assert (body["user_id"], body["value"], body["id"]) == (vasya.id, 10, vasya.accounts["USD"])
        assert (await order(admin, "-4", user_id=vasya.id)).ok(201)["value"] == 6
        assert (await admin.get(answer.headers["Location"])).ok()["status"] == "posted"
        ledger.assert_ledger_balances(service.database_url)

    async def test_an_admin_names_the_users_own_account(self, service: Service) -> None:
        vasya, frosya = await service.register(), await service.register()
        admin = await service.superuser(SUPERUSER_PASSWORD)
        answer = await order(admin, "10", user_id=vasya.id, account_id=frosya.accounts["USD"])
        answer.problem(403, "forbidden", field="account_id")

    async def test_an_admin_learns_that_there_is_no_such_user(self, service: Service) -> None:
        admin = await service.superuser(SUPERUSER_PASSWORD)
        (await order(admin, "10", user_id=10**9)).problem(400, "unknown-account", field="user_id")

    async def test_without_credentials_nothing(self, service: Service) -> None:
        (await service.post("/api/balances", form={"user_id": 1, "value": 1})).problem(401)
        (await service.get("/api/balances/my")).problem(401)

    async def test_deposits_may_be_left_to_admins(self, start_service: StartService, settings: Settings) -> None:
        service = await start_service(replace(settings, self_deposit=False))
        vasya, admin = await service.register(), await service.superuser(SUPERUSER_PASSWORD)
        (await order(vasya, "10")).problem(403, "forbidden", field="value")
        (await order(admin, "10", user_id=vasya.id)).ok(201)
        assert (await order(vasya, "-4")).ok(201)["value"] == 6


BAD = [
    *[("value", value) for value in ("0", "0.00", "-0", "-", "--1", "+1", "1.001", "-1.001", "NaN", "nan", "inf")],
    *[("value", value) for value in ("-inf", "1e2", "1_000", " 1", "1,5", ".5", "1.", "٣", "", "x" * 100)],
    *[("value", value) for value in ("1000000000000.01", "-1000000000000.01", "9" * 64)],
    *[("user_id", value) for value in ("", "-1", "x", "1.0", str(2**63), " 1")],
    *[("account_id", value) for value in ("-1", "x", str(2**63))],
]


@pytest.mark.parametrize(("field", "value"), BAD)
async def test_bad_fields_are_400_and_named(service: Service, field: str, value: str) -> None:
    vasya = await service.register()
    before = ledger.counts(service.database_url)
    form = {"user_id": str(vasya.id), "value": "1"} | {field: value}
    (await vasya.post("/api/balances", form=form)).problem(400, field=field)
    assert ledger.counts(service.database_url) == before


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"[]", None),
        (b"[" * 8_000, None),
        (b'{"user_id":' * 1_000, None),
        (b'"text"', None),
        (b"null", None),
        (b"{", None),
        (b"", "user_id"),
        (b"{}", "user_id"),
        (b'{"user_id":2}', "value"),
        (b'{"user_id":2,"value":1,"value":1}', "value"),
        (b'{"user_id":2,"user_id":2,"value":1}', "user_id"),
        (b'{"user_id":2,"value":1,"colour":"red"}', "colour"),
        (b'{"user_id":2,"value":NaN}', "value"),
        (b'{"user_id":2,"value":Infinity}', "value"),
        (b'{"user_id":2,"value":1e2}', "value"),
        (b'{"user_id":2,"value":null}', "value"),
        (b'{"user_id":2,"value":true}', "value"),
        (b'{"user_id":2,"value":[1]}', "value"),
        (b'{"user_id":{"id":2},"value":1}', "user_id"),
    ],
)
async def test_bad_json_is_400(service: Service, body: bytes, field: str | None) -> None:
    vasya = await service.register()
    before = ledger.counts(service.database_url)
    answer = await vasya.post("/api/balances", body=body, headers={"Content-Type": "application/json"})
    answer.problem(400, field=field)
    assert ledger.counts(service.database_url) == before


async def test_a_huge_body_is_413(service: Service) -> None:
    vasya = await service.register()
    body = b'{"user_id":2,"value":1' + b" " * 20_000 + b"}"
    (await vasya.post("/api/balances", body=body, headers={"Content-Type": "application/json"})).problem(413)


async def test_an_unknown_account_is_named(service: Service) -> None:
    vasya = await service.register()
    (await order(vasya, "1", account_id=10**9)).problem(400, "unknown-account", field="account_id")


class TestIdempotencyKey:
    """The same key is the same order, for good."""

    async def test_the_original_answer_comes_again(self, service: Service) -> None:
        vasya = await service.register()
        first = await order(vasya, "10", key="one")
        (await order(vasya, "-3")).ok(201)
        again = await order(vasya, "10.00", key="one")
        assert again.ok(201) == first.ok(201)
        assert again.headers["Location"] == first.headers["Location"]
        assert (await my_balance(vasya))["value"] == 7

    @pytest.mark.parametrize("other", [{"value": "-10"}, {"value": "11"}, {"value": "10", "account_id": "own"}])
    async def test_another_content_is_422(self, service: Service, other: dict[str, str]) -> None:
        vasya = await service.register()
        (await order(vasya, "10", key="one")).ok(201)
        fields = {name: vasya.accounts["USD"] if value == "own" else value for name, value in other.items()}
        (await vasya.post("/api/balances", form={"user_id": vasya.id, **fields}, key="one")).problem(422)
        assert (await my_balance(vasya))["value"] == 10

    async def test_a_transfer_is_another_content(self, service: Service) -> None:
        vasya, frosya = await service.register(), await service.register()
        (await order(vasya, "10", key="one")).ok(201)
        (await vasya.pay(frosya, "1", key="one")).problem(422)

    async def test_a_refusal_does_not_burn_it(self, service: Service) -> None:
        vasya = await service.register()
        (await order(vasya, "-10", key="one")).problem(402)
        (await order(vasya, "10")).ok(201)
        assert (await order(vasya, "-10", key="one")).ok(201)["value"] == 0

    async def test_it_belongs_to_the_caller(self, service: Service) -> None:
        vasya, admin = await service.register(), await service.superuser(SUPERUSER_PASSWORD)
        (await order(vasya, "10", key="one")).ok(201)
        assert (await order(admin, "10", user_id=vasya.id, key="one")).ok(201)["value"] == 20

    async def test_twenty_at_once_book_once(self, service: Service) -> None:
        vasya = await service.register()
        answers = await asyncio.gather(*(order(vasya, "10", key="one") for _ in range(20)))
        assert len({answer.text for answer in answers}) == 1
        assert answers[0].ok(201)["value"] == 10
        UUID(answers[0].headers["Location"].rpartition("/")[2])


class TestPermissionLost:
    """What was ordered while it was allowed is answered as it was; anything else is forbidden, as without a key."""

    async def test_deposits_to_oneself(self, start_service: StartService, settings: Settings) -> None:
        before = await start_service(settings)
        vasya = await before.register()
        first = await order(vasya, "10", key="one")
        (await order(vasya, "-3")).ok(201)
        vasya = vasya.at(await start_service(replace(settings, self_deposit=False)))
        again = await order(vasya, "10", key="one")
        assert (again.ok(201), again.headers["Location"]) == (first.ok(201), first.headers["Location"])
        (await order(vasya, "11", key="one")).problem(422, "idempotency-key-reused")
        for key in ("two", None):
            (await order(vasya, "10", key=key)).problem(403, "forbidden", field="value")
        (await order(vasya, "-1", key="two")).ok(201)
        assert (await my_balance(vasya))["value"] == 6
        ledger.assert_ledger_balances(before.database_url)

    async def test_an_admin_demoted(self, service: Service) -> None:
        vasya, frosya = await service.register(), await service.register()
        admin = await service.superuser(SUPERUSER_PASSWORD)
        (await admin.patch(f"/api/users/{frosya.username}", document={"is_admin": True})).ok()
        first = await order(frosya, "10", user_id=vasya.id, key="one")
        (await admin.patch(f"/api/users/{frosya.username}", document={"is_admin": False})).ok()
        assert (await order(frosya, "10", user_id=vasya.id, key="one")).ok(201) == first.ok(201)
        (await order(frosya, "11", user_id=vasya.id, key="one")).problem(422)
        for value in ("10", "-10", "-1000", "0.001"):
            for user_id in (vasya.id, 10**9):
                (await order(frosya, value, user_id=user_id, key="two")).problem(403, field="user_id")
        account_id = vasya.accounts["USD"]
        (await order(frosya, "1", user_id=vasya.id, account_id=account_id, key="two")).problem(403, field="user_id")
        (await order(frosya, "10", key="two")).ok(201)
        assert (await my_balance(vasya))["value"] == 10
        ledger.assert_ledger_balances(service.database_url)


async def test_fifty_deposits_of_one_at_once_are_fifty_more(service: Service) -> None:
    vasya = await service.register()
    answers = await asyncio.gather(*(order(vasya, "1") for _ in range(50)))
    assert sorted(answer.ok(201)["value"] for answer in answers) == list(range(1, 51))
    assert (await my_balance(vasya))["value"] == 50
    ledger.assert_ledger_balances(service.database_url)


async def test_withdrawals_at_once_never_overdraw(service: Service) -> None:
    vasya = await service.register()
    (await order(vasya, "10")).ok(201)
    answers = await asyncio.gather(*(order(vasya, "-1") for _ in range(20)))
    assert sorted(answer.status for answer in answers) == [201] * 10 + [402] * 10
    assert (await my_balance(vasya))["value"] == 0
    ledger.assert_ledger_balances(service.database_url)


async def test_two_processes_deposit_withdraw_and_pay_without_deadlock(
    start_service: StartService, settings: Settings
) -> None:
    first, second = await start_service(settings), await start_service(settings)
    vasya = await first.register()
    admin = (await first.superuser(SUPERUSER_PASSWORD)).at(second)
    (await order(vasya, "100")).ok(201)
    work = []
    for _ in range(20):
        work += [order(vasya, "1"), order(vasya.at(second), "-1"), vasya.pay(admin, "1")]
        work += [order(admin, "1"), order(admin, "1", account_id=admin.accounts["EUR"])]
    answers = await asyncio.gather(*work)
    assert {answer.status for answer in answers} == {200, 201}
    ledger.assert_ledger_balances(first.database_url)
