"""POST /currencies and PATCH /currencies/{currency_id}."""

from decimal import Decimal
from typing import Any

import pytest

from tests import ledger
from tests.client import Caller, Service

YEN = {"id": "JPY", "description": "Japanese Yen", "commission": "0.015", "decimals": "0"}


async def test_a_new_currency_has_its_accounts_at_once(service: Service, admin: Caller) -> None:
    vasya = await service.register()
    body = (await admin.post("/currencies", form=YEN)).ok(201)
    assert body == {"id": "JPY", "description": "Japanese Yen", "commission": Decimal("0.015"), "decimals": 0}
    assert (await service.get("/currencies")).ok()[-1] == body
    sql = "SELECT user_id, id < 0 FROM accounts WHERE currency_id = 'JPY' ORDER BY id"
    assert ledger.query(service.database_url, sql) == [(None, True), (1, False)]
    assert "JPY" in {row["currency_id"] for row in await admin.list_accounts()}
    assert "JPY" not in {row["currency_id"] for row in await vasya.list_accounts()}


async def test_money_moves_in_it(service: Service, admin: Caller) -> None:
    (await admin.post("/currencies", document=YEN | {"decimals": 0})).ok(201)
    vasya, frosya = await service.register(), await service.register()
    form = {"user_id": vasya.id, "value": "1000", "account_id": vasya.accounts["JPY"]}
    answer = await vasya.post("/api/balances", form=form)
    assert '"value":1000,' in answer.text
    (await vasya.post("/api/balances", form=form | {"value": "0.5"})).problem(400, field="value")
    receipt = (await vasya.pay(frosya, "100", "JPY")).ok()
    assert [transfer["amount"] for transfer in receipt["transfers"]] == [100, 2]
    ledger.assert_ledger_balances(service.database_url)


async def test_a_new_rate_holds_from_then_on(service: Service, admin: Caller) -> None:
    vasya, frosya = await service.register(), await service.register()
    (await vasya.post("/api/balances", form={"user_id": vasya.id, "value": "100"})).ok(201)
    (await vasya.pay(frosya, "10", key="before")).ok()
    body = (await admin.patch("/currencies/USD", form={"commission": "0.1"})).ok()
    assert body == {"id": "USD", "description": "United States Dollar", "commission": Decimal("0.1"), "decimals": 2}
    commissions = [(await vasya.pay(frosya, "10", key=key)).ok()["transfers"][1]["amount"] for key in ("before", "x")]
    assert commissions == [Decimal("0.10"), Decimal("1.00")]


async def test_a_description_alone(service: Service, admin: Caller) -> None:
    body = (await admin.patch("/currencies/USD", document={"description": "Greenback"})).ok()
    assert (body["description"], body["commission"]) == ("Greenback", Decimal("0.01"))
    assert (await service.get("/currencies")).ok()[0] == body


async def test_a_currency_that_there_is_is_409(service: Service, admin: Caller) -> None:
    before = ledger.counts(service.database_url)
    (await admin.post("/currencies", form=YEN | {"id": "USD"})).problem(409, "currency-exists", field="id")
    assert ledger.counts(service.database_url) == before


@pytest.mark.parametrize("currency_id", ["GBP", "usd", "USDX", "U5D"])
async def test_an_unknown_one_is_404(admin: Caller, currency_id: str) -> None:
    (await admin.patch(f"/currencies/{currency_id}", form={"commission": "0"})).problem(404, "not-found")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("id", value) for value in ("", "usd", "USDX", "US", "U5D", "USD\n")],
        *[("description", value) for value in ("", "x" * 256)],
        *[("commission", value) for value in ("", "-0.1", "1.1", "nan", "1e-2", ".1", "0.0000001", "2")],
        *[("decimals", value) for value in ("", "-1", "7", "2.0", "x")],
    ],
)
async def test_bad_fields_are_400_and_named(service: Service, admin: Caller, field: str, value: str) -> None:
    (await admin.post("/currencies", form=YEN | {field: value})).problem(400, field=field)
    assert ledger.count(service.database_url, "currencies") == 3


@pytest.mark.parametrize(("field", "value"), [("decimals", "3"), ("id", "GBP"), ("commission", "1.01")])
async def test_bad_changes_are_400_and_named(admin: Caller, field: str, value: Any) -> None:
    (await admin.patch("/currencies/USD", form={field: value})).problem(400, field=field)
