"""POST /users."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from aiopypay.settings import Settings
from tests import ledger
from tests.client import PASSWORD, Caller, Service
from tests.conftest import SUPERUSER_PASSWORD, StartService, with_credit

pytestmark = pytest.mark.real_hashing


async def register(service: Service, **form: str) -> Any:
    return await service.post("/users", form={"username": "vasya", "password": PASSWORD} | form)


async def test_registers_a_user(service: Service) -> None:
    answer = await register(service, full_name="Vasya Pupkin")
    user = answer.ok(201)
    assert user == {"id": user["id"], "username": "vasya", "full_name": "Vasya Pupkin"}
    assert list(user) == ["id", "username", "full_name"]


async def test_the_full_name_is_optional(service: Service) -> None:
    assert (await register(service)).ok(201)["full_name"] == "Unknown"


async def test_the_first_user_comes_right_after_the_superuser(service: Service) -> None:
    superuser = await service.superuser(SUPERUSER_PASSWORD)
    assert dict(superuser.accounts) == {"USD": 1, "CNY": 2, "EUR": 3}
    first = await service.register()
    assert first.id == 2
    assert dict(first.accounts) == {"USD": 4, "CNY": 5, "EUR": 6}


async def test_opens_one_account_per_currency_in_the_order_of_the_currencies(service: Service) -> None:
    accounts = await (await service.register()).list_accounts()
    assert [account["currency_id"] for account in accounts] == ["USD", "CNY", "EUR"]
    assert [account["id"] for account in accounts] == sorted(account["id"] for account in accounts)
    assert [account["amount"] for account in accounts] == [Decimal("0.00")] * 3


@pytest.mark.parametrize("username", ["vasya", "VASYA", "Vasya", "superuser", "SuperUser"])
async def test_a_username_is_taken_in_any_case(service: Service, username: str) -> None:
    await service.register("Vasya")
    before = ledger.counts(service.database_url)
    answer = await register(service, username=username)
    answer.problem(409, "username-taken", field="username")
    assert ledger.counts(service.database_url) == before


@pytest.mark.parametrize("username", ["a", "x" * 64, "Vasya_1@example.com-x", "...", "mee", "1", "-", "@", "_"])
async def test_usernames_are_1_to_64_of_the_documented_characters(service: Service, username: str) -> None:
    caller = await service.register(username)
    assert (await caller.get(f"/users/{caller.id}/accounts")).status == 200


async def test_names_and_passwords_are_unicode(service: Service) -> None:
    caller = await service.register("vasya", password="пароль: 🔑 ключ", full_name="Вася Пупкин 🙂")
    assert await caller.list_accounts()
    assert ledger.value(service.database_url, "SELECT full_name FROM users WHERE id = %s", (caller.id,)) == (
        "Вася Пупкин 🙂"
    )


async def test_accepts_json(service: Service) -> None:
    answer = await service.post("/users", document={"username": "vasya", "password": PASSWORD, "full_name": "Вася"})
    assert answer.ok(201)["full_name"] == "Вася"


async def test_an_answer_is_utf_8(service: Service) -> None:
    answer = await register(service, full_name="Вася")
    assert "Вася".encode() in answer.body


@pytest.mark.parametrize(("password", "status"), [("1234567", 400), ("eight888", 201), ("ключключ", 201)])
async def test_the_shortest_password_has_8_characters(service: Service, password: str, status: int) -> None:
    answer = await register(service, password=password)
    if status == 400:
        answer.problem(400, field="password")
        assert password not in answer.text
    else:
        answer.ok(201)


async def test_the_password_is_stored_as_an_argon2id_hash_only(service: Service) -> None:
    caller = await service.register(password="a rare password")
    row = ledger.query(service.database_url, "SELECT users::text FROM users WHERE id = %s", (caller.id,))
    assert "$argon2id$v=19$m=19456,t=2,p=1$" in row[0][0]
    assert "rare" not in row[0][0]


async def test_a_name_that_is_taken_uses_up_no_number(service: Service) -> None:
    for username in ("superuser", "SuperUser"):
        (await service.post("/users", form={"username": username, "password": "correct horse"})).problem(409)
    assert (await service.register()).id == 2


async def test_of_concurrent_registrations_of_one_name_one_succeeds(service: Service) -> None:
    names = ["vasya", "VASYA", "Vasya", "vAsYa"] * 3
    answers = await asyncio.gather(*(register(service, username=name) for name in names))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 11
    assert ledger.value(service.database_url, "SELECT count(*) FROM users WHERE lower(username) = 'vasya'") == 1
    assert ledger.value(service.database_url, "SELECT count(*) FROM accounts WHERE user_id > 1") == 3


async def test_sign_up_credit_is_booked_against_the_world_outside(
    start_service: StartService, settings: Settings
) -> None:
    service = await start_service(with_credit(settings, USD="100", EUR="5.5"))
    caller = await service.register()
    accounts = await caller.list_accounts()
    assert [account["amount"] for account in accounts] == [Decimal("100.00"), Decimal("0.00"), Decimal("5.50")]
    transfers = ledger.query(
        service.database_url,
        "SELECT kind, from_account_id < 0, to_account_id, amount FROM transfers ORDER BY to_account_id",
    )
    assert transfers == [
        ("opening", True, caller.accounts["USD"], Decimal(100)),
        ("opening", True, caller.accounts["EUR"], Decimal("5.5")),
    ]
    ledger.assert_ledger_balances(service.database_url)


async def test_without_sign_up_credit_nothing_is_booked(service: Service) -> None:
    await service.register()
    assert ledger.count(service.database_url, "transfers") == 0


async def test_many_register_at_once_each_with_their_credit(start_service: StartService, settings: Settings) -> None:
    service = await start_service(with_credit(settings, USD="100", CNY="7", EUR="5"))
    callers: list[Caller] = await asyncio.gather(*(service.register() for _ in range(20)))
    assert len({caller.id for caller in callers}) == 20
    for currency_id, amount in (("USD", 100), ("CNY", 7), ("EUR", 5)):
        assert {await caller.balance(currency_id) for caller in callers} == {Decimal(amount)}
    ledger.assert_ledger_balances(service.database_url)
