"""The suite of the prototype, over HTTP: what its users rely on, with its sign-up credit and its short passwords."""

from dataclasses import replace
from decimal import Decimal

import pytest

from aiopypay.settings import Settings
from tests.client import Caller, Service, basic
from tests.conftest import SUPERUSER_PASSWORD, StartService, with_credit

VASYA, FROSYA = basic("vasya", "pass"), basic("frosya", "pass")


@pytest.fixture
async def service(start_service: StartService, settings: Settings) -> Service:
    """The service as the prototype was: 100 dollars for everybody, passwords of four characters."""
    return await start_service(replace(with_credit(settings, USD="100"), password_min_length=4))


async def create_vasya(service: Service) -> Caller:
    return await service.register("vasya", "pass", "Vasya Pupkin")


async def create_frosya(service: Service) -> Caller:
    return await service.register("frosya", "pass", "Frosya Taburetkina")


async def test_currencies(service: Service) -> None:
    answer = await service.get("/currencies")
    assert answer.status == 200
    assert len(answer.json()) == 3


async def test_bad_uri(service: Service) -> None:
    assert (await service.get("/currencies/111")).status == 404


async def test_register_user(service: Service) -> None:
    form = {"username": "vasya", "password": "pass", "full_name": "Vasya Pupkin"}
    answer = await service.post("/users", form=form)
    assert answer.status == 201
    assert answer.json()["username"] == "vasya"


async def test_register_user_twice(service: Service) -> None:
    form = {"username": "vasya", "password": "pass", "full_name": "Vasya Pupkin"}
    assert (await service.post("/users", form=form)).status == 201
    assert (await service.post("/users", form=form)).status == 409


async def test_register_user_unicode(service: Service) -> None:
    form = {"username": "vasya", "password": "pass", "full_name": "Вася Пупкин"}
    answer = await service.post("/users", form=form)
    assert answer.status == 201
    assert answer.json()["full_name"] == "Вася Пупкин"


async def test_register_bad_user(service: Service) -> None:
    answer = await service.post("/users", form={"password": "pass", "full_name": "Вася Пупкин"})
    assert answer.status == 400


async def test_accounts_created(service: Service) -> None:
    await create_vasya(service)
    answer = await service.get("/users/2/accounts", authorization=VASYA)
    assert answer.status == 200
    accounts = answer.json()
    assert len(accounts) == 3
    assert (accounts[0]["currency_id"], accounts[0]["amount"]) == ("USD", 100)
    account = (await service.get("/accounts/4", authorization=VASYA)).json()
    assert (account["currency_id"], account["amount"]) == ("USD", 100)


async def test_unauthorized_access(service: Service) -> None:
    await create_vasya(service)
    await create_frosya(service)
    assert (await service.get("/users/2/accounts")).status == 401
    assert (await service.get("/users/3/accounts", authorization=VASYA)).status == 403
    assert (await service.get("/users/3/accounts", authorization=basic("vasya", "pass111"))).status == 401
    assert (await service.get("/accounts/7", authorization=VASYA)).status == 403
    assert (await service.get("/accounts/100", authorization=VASYA)).status == 404


async def test_create_account(service: Service) -> None:
    await create_vasya(service)
    answer = await service.post("/users/2/accounts/USD", authorization=VASYA)
    assert answer.status == 200
    assert answer.json()["currency_id"] == "USD"


async def test_create_account_bad_currency(service: Service) -> None:
    await create_vasya(service)
    assert (await service.post("/users/2/accounts/YUP", authorization=VASYA)).status == 400
    assert (await service.post("/users/2/accounts/AAAAAAA", authorization=VASYA)).status == 404


async def test_transfer_with_commission(service: Service) -> None:
    await create_vasya(service)
    await create_frosya(service)
    form = {"from": 4, "to": 7, "amount": 10}
    answer = await service.post("/users/2/transfers", authorization=VASYA, form=form)
    assert answer.status == 200
    assert len(answer.json()["transfers"]) == 2

    answer = await service.get("/users/2/transfers", authorization=VASYA)
    assert answer.status == 200
    assert [transfer["comment"] for transfer in answer.json()] == ["External payment", "Commission"]

    answer = await service.get("/accounts/4", authorization=VASYA)
    assert (answer.status, answer.json()["amount"]) == (200, Decimal("89.9"))
    answer = await service.get("/accounts/7", authorization=FROSYA)
    assert (answer.status, answer.json()["amount"]) == (200, 110)
    answer = await service.get("/accounts/1", authorization=basic("superuser", SUPERUSER_PASSWORD))
    assert (answer.status, answer.json()["amount"]) == (200, Decimal("0.1"))


async def test_transfer_without_commission(service: Service) -> None:
    await create_vasya(service)
    assert (await service.post("/users/2/accounts/USD", authorization=VASYA)).status == 200
    form = {"from": 4, "to": 7, "amount": 10}
    answer = await service.post("/users/2/transfers", authorization=VASYA, form=form)
    assert answer.status == 200
    assert len(answer.json()["transfers"]) == 1

    answer = await service.get("/users/2/transfers", authorization=VASYA)
    assert [transfer["comment"] for transfer in answer.json()] == ["Internal transfer"]
    assert (await service.get("/accounts/4", authorization=VASYA)).json()["amount"] == 90
    assert (await service.get("/accounts/7", authorization=VASYA)).json()["amount"] == 10
