"""The routes of accounts."""

import re
from decimal import Decimal

import pytest

from tests import ledger
from tests.client import Service
from tests.conftest import SUPERUSER_PASSWORD

RFC_3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


async def test_an_account_has_the_documented_members(service: Service) -> None:
    caller = await service.register()
    account = (await caller.get(f"/accounts/{caller.accounts['USD']}")).ok()
    assert list(account) == ["id", "user_id", "currency_id", "amount", "created_at", "updated_at"]
    assert account["id"] == caller.accounts["USD"]
    assert account["user_id"] == caller.id
    assert account["currency_id"] == "USD"
    assert account["amount"] == Decimal("0.00")
    assert RFC_3339_UTC.fullmatch(account["created_at"])
    assert account["updated_at"] is None


async def test_an_amount_is_a_number_with_the_decimals_of_its_currency(service: Service) -> None:
    caller = await service.register()
    ledger.deposit(service.database_url, caller.accounts["USD"], "89.9")
    answer = await caller.get(f"/accounts/{caller.accounts['USD']}")
    assert '"amount":89.90,' in answer.text


@pytest.mark.parametrize("amount", ["0.01", "999999999999999.99", "123456789012345678901234567890.12"])
async def test_amounts_are_exact_whatever_their_size(service: Service, amount: str) -> None:
    caller = await service.register()
    ledger.deposit(service.database_url, caller.accounts["EUR"], amount)
    assert f'"amount":{amount},' in (await caller.get(f"/accounts/{caller.accounts['EUR']}")).text
    assert f'"amount":{amount},' in (await caller.get(f"/users/{caller.id}/accounts")).text


async def test_a_change_of_the_balance_shows_in_updated_at(service: Service) -> None:
    caller = await service.register()
    ledger.deposit(service.database_url, caller.accounts["USD"], "1")
    account = (await caller.get(f"/accounts/{caller.accounts['USD']}")).ok()
    assert RFC_3339_UTC.fullmatch(account["updated_at"])
    assert account["updated_at"] >= account["created_at"]


async def test_accounts_are_listed_by_id(service: Service) -> None:
    caller = await service.register()
    opened = [await caller.open_account(currency_id) for currency_id in ("EUR", "USD", "EUR")]
    ledger.deposit(service.database_url, caller.accounts["USD"], "1")
    accounts = await caller.list_accounts()
    assert [account["id"] for account in accounts] == [*caller.accounts.values(), *opened]
    assert {account["user_id"] for account in accounts} == {caller.id}


async def test_a_listed_account_is_the_single_one(service: Service) -> None:
    caller = await service.register()
    for account in await caller.list_accounts():
        assert (await caller.get(f"/accounts/{account['id']}")).ok() == account


async def test_opens_another_account_in_a_currency(service: Service) -> None:
    caller = await service.register()
    account = (await caller.post(f"/users/{caller.id}/accounts/USD")).ok()
    assert account["id"] not in caller.accounts.values()
    assert (account["user_id"], account["currency_id"], account["amount"]) == (caller.id, "USD", Decimal("0.00"))
    assert (await caller.get(f"/accounts/{account['id']}")).ok() == account


async def test_an_unknown_currency_is_refused(service: Service) -> None:
    caller = await service.register()
    before = ledger.counts(service.database_url)
    (await caller.post(f"/users/{caller.id}/accounts/YUP")).problem(400, "unknown-currency", field="currency_id")
    (await caller.post(f"/users/{caller.id}/accounts/YUP", key="k")).problem(400, field="currency_id")
    assert ledger.counts(service.database_url) == before


@pytest.mark.parametrize("currency_id", ["AAAAAAA", "US", "usd", "U$D", "US%0A", "USD%0A", "%D0%A3%D0%A3%D0%A3", "123"])
async def test_what_cannot_be_a_currency_has_no_address(service: Service, currency_id: str) -> None:
    caller = await service.register()
    (await caller.post(f"/users/{caller.id}/accounts/{currency_id}")).problem(404, "not-found")


async def test_nobody_reads_or_opens_anothers_accounts(service: Service) -> None:
    caller, other = await service.register(), await service.register()
    (await caller.get(f"/users/{other.id}/accounts")).problem(403, "forbidden")
    (await caller.get(f"/accounts/{other.accounts['USD']}")).problem(403, "forbidden")
    (await caller.post(f"/users/{other.id}/accounts/USD")).problem(403, "forbidden")
    assert len(await other.list_accounts()) == 3


async def test_the_superuser_is_nobody_elses_reader_either(service: Service) -> None:
    caller, superuser = await service.register(), await service.superuser(SUPERUSER_PASSWORD)
    (await caller.get(f"/accounts/{superuser.accounts['USD']}")).problem(403)
    (await superuser.get(f"/accounts/{caller.accounts['USD']}")).problem(403)
    (await superuser.get(f"/users/{caller.id}/accounts")).problem(403)


async def test_credentials_are_asked_for(service: Service) -> None:
    caller = await service.register()
    for answer in (
        await service.get(f"/users/{caller.id}/accounts"),
        await service.get(f"/accounts/{caller.accounts['USD']}"),
        await service.post(f"/users/{caller.id}/accounts/USD"),
    ):
        assert answer.problem(401, "not-authenticated")["detail"] == "Not authenticated"


@pytest.mark.parametrize(
    "account_id", ["0", "99999999", str(2**63 - 1), str(2**63), "9" * 5000, "-1", "-2", "x", "4x", "٤"]
)
async def test_what_is_no_account_is_not_found(service: Service, account_id: str) -> None:
    caller = await service.register()
    (await caller.get(f"/accounts/{account_id}")).problem(404, "not-found")


@pytest.mark.parametrize("user_id", [str(2**63), "9" * 5000, "-1", "x", "2x", "٢"])
async def test_what_cannot_be_a_user_is_not_found(service: Service, user_id: str) -> None:
    caller = await service.register()
    (await caller.get(f"/users/{user_id}/accounts")).problem(404, "not-found")
    (await caller.post(f"/users/{user_id}/accounts/USD")).problem(404, "not-found")


async def test_a_user_that_does_not_exist_is_told_like_one_that_does(service: Service) -> None:
    caller = await service.register()
    (await caller.get(f"/users/{caller.id + 1000}/accounts")).problem(403, "forbidden")
