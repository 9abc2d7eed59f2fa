"""Deposits and withdrawals while the database is away; and whoever was changed just before."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from tests import ledger
from tests.client import Answer, Caller, Service, basic

from .load import SUPERUSER_PASSWORD
from .postgres import PostgresServer
from .service import NewService, ServiceProcess
from .waiting import eventually

OFFLINE = "Service partially down. But your transaction is being processed offline and will be processed once online"
SETTINGS = {"APP_SIGNUP_CREDIT": "", "APP_SECRET_KEY": "a secret of thirty-two bytes or more"}


@pytest.fixture
async def process(empty_postgres: PostgresServer, new_service: NewService) -> ServiceProcess:
    process = new_service(empty_postgres.dsn, SETTINGS)
    process.start()
    await process.wait_ready()
    return process


@pytest.fixture
async def service(process: ServiceProcess, empty_postgres: PostgresServer) -> AsyncIterator[Service]:
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield Service(session, process.base_url, empty_postgres.dsn)


async def order(caller: Caller, value: str, *, key: str | None = None, **fields: Any) -> Answer:
    return await caller.post("/api/balances", form={"user_id": caller.id, "value": value, **fields}, key=key)


async def stop_database(postgres: PostgresServer, process: ServiceProcess) -> None:
    await process.wait_filled()
    await asyncio.to_thread(postgres.stop)
    await process.wait_mode("stand-in")


async def start_database(postgres: PostgresServer, process: ServiceProcess) -> None:
    await asyncio.to_thread(postgres.start)
    await process.wait_mode("online")


async def test_the_demonstration_of_client_transactions_api(
    empty_postgres: PostgresServer, process: ServiceProcess, service: Service
) -> None:
    """Step by step as its README has it, every body to the letter."""
    document = {"username": "user", "password": "password"}
    assert (await service.post("/api/auth/register", document=document)).ok(201) == {"username": "user"}

    assert (await service.get("/api/users/me")).problem(401)["detail"] == "Not authenticated"
    token = (await service.post("/api/auth/token", form=document)).ok()["access_token"]
    authorization = {"authorization": f"Bearer {token}"}
    me = {"username": "user", "password": None, "is_admin": False, "is_active": True, "id": "2"}
    assert (await service.get("/api/users/me", **authorization)).ok() == me

    first = (await service.get("/api/balances/my", **authorization)).ok()
    account = {"user_id": 2, "created_at": first["created_at"], "id": first["id"]}
    assert first == account | {"value": 0, "updated_at": None}

    async def transact(value: str) -> Answer:
        body = f'{{"user_id": 2, "value": {value}}}'.encode()
        headers = {"Content-Type": "application/json"}
        return await service.post("/api/balances", body=body, headers=headers, **authorization)

    deposited = (await transact("420.69")).ok(201)
    assert deposited == account | {"value": Decimal("420.69"), "updated_at": deposited["updated_at"]}
    assert deposited["updated_at"] > first["created_at"]
    refused = (await transact("-12312.17")).problem(402, "insufficient-funds")
    assert refused["detail"] == "Not enough funds (420.69) for a -12312.17 transaction!"

    await stop_database(empty_postgres, process)
    assert (await service.get("/api/users/me", **authorization)).ok() == me
    assert (await service.get("/api/balances/my", **authorization)).ok() == deposited
    (await service.post("/api/auth/token", form=document)).ok()
    accepted = await transact("420.69")
    detail = {"user_id": 2, "value": Decimal("420.69"), "balance": Decimal("841.38"), "message": OFFLINE}
    assert accepted.ok(201) == {"detail": detail, "order_id": accepted.headers["Location"].rpartition("/")[2]}
    assert accepted.headers["Aiopypay-Mode"] == "stand-in"
    detail = {"user_id": 2, "value": Decimal("-482.75"), "balance": Decimal("358.63"), "message": OFFLINE}
    assert (await transact("-482.75")).ok(201)["detail"] == detail
    message = "Not enough funds (358.63) for a -1420.69 transaction!"
    detail = {"user_id": 2, "value": Decimal("-1420.69"), "balance": Decimal("358.63"), "message": message}
    answer = await transact("-1420.69")
    assert answer.ok(402) == {
        "type": "/problems/insufficient-funds",
        "title": "Insufficient funds",
        "status": 402,
        "detail": detail,
        "instance": answer.headers["X-Request-ID"],
    }
    assert (await service.get("/api/balances/my", **authorization)).ok()["value"] == Decimal("358.63")
    order_state = (await service.get(accepted.headers["Location"], **authorization)).ok()
    assert order_state["status"] == "pending"

    await start_database(empty_postgres, process)
    settled = (await service.get("/api/balances/my", **authorization)).ok()
    assert settled["value"] == Decimal("358.63")
    assert (await service.get(accepted.headers["Location"], **authorization)).ok()["status"] == "posted"
    assert (await transact("1420.69")).ok(201)["value"] == Decimal("1779.32")
    transfers = (await service.get("/users/2/transfers", **authorization)).ok()
    assert [(transfer["kind"], str(transfer["amount"])) for transfer in transfers] == [
        ("deposit", "420.69"),
        ("deposit", "420.69"),
        ("withdrawal", "482.75"),
        ("deposit", "1420.69"),
    ]
    ledger.assert_ledger_balances(service.database_url)


async def test_who_may_is_asked_without_the_database_too(
    empty_postgres: PostgresServer, process: ServiceProcess, service: Service
) -> None:
    vasya, frosya = await service.register(), await service.register()
    admin = await service.superuser(SUPERUSER_PASSWORD)
    await stop_database(empty_postgres, process)
    for value in ("10", "-10"):
        (await order(vasya, value, user_id=frosya.id)).problem(403, "forbidden", field="user_id")
        (await order(vasya, value, account_id=frosya.accounts["USD"])).problem(403, field="account_id")
    (await service.get("/api/users", authorization=vasya.authorization)).problem(403, "forbidden")
    (await admin.get("/api/users")).problem(503)
    (await admin.patch(f"/api/users/{vasya.username}", document={"is_admin": True})).problem(503)
    (await admin.patch("/currencies/USD", document={"commission": "0"})).problem(503)
    form = {"current_password": vasya.password, "password": "another horse"}
    (await vasya.patch("/api/users/me", form=form)).problem(503)
    (await service.post("/api/auth/register", document={"username": "new", "password": "password"})).problem(503)
    (await service.get("/api/users/me", authorization="Bearer nonsense")).problem(401)
    (await service.get("/api/users/me", authorization=basic(vasya.username, "wrong"))).problem(401)
    body = (await order(admin, "10", user_id=frosya.id, account_id=frosya.accounts["EUR"], key="one")).ok(201)
    assert (body["detail"]["user_id"], body["detail"]["balance"]) == (frosya.id, 10)
    assert (await frosya.get("/api/balances/my")).ok()["value"] == 0
    (await order(vasya, "1.001")).problem(400, field="value")
    # Somebody of this number may have registered just before.
    (await order(admin, "1", user_id=10**9)).problem(503, "not-known-here")

    await start_database(empty_postgres, process)
    assert await frosya.balance("EUR") == 10
    (await order(admin, "10", user_id=frosya.id, account_id=frosya.accounts["EUR"], key="one")).ok(201)
    assert await frosya.balance("EUR") == 10
    ledger.assert_ledger_balances(service.database_url)


async def test_what_was_ordered_is_answered_as_it_was_to_whoever_may_no_longer_order_it(
    empty_postgres: PostgresServer, process: ServiceProcess, service: Service
) -> None:
    vasya, frosya = await service.register(), await service.register()
    booked = (await order(vasya, "10", key="booked")).ok(201)
    await stop_database(empty_postgres, process)
    accepted = (await order(vasya, "5", key="accepted")).ok(201)
    await process.terminate()
    process.configure(APP_SELF_DEPOSIT="no")
    process.start()
    await process.wait_ready()
    assert (await order(vasya, "10", key="booked")).ok(201) == booked
    assert (await order(vasya, "5", key="accepted")).ok(201) == accepted
    (await order(vasya, "6", key="accepted")).problem(422)
    (await order(vasya, "5", key="new")).problem(403, "forbidden", field="value")
    (await order(vasya, "-1", user_id=frosya.id, key="new")).problem(403, field="user_id")

    await start_database(empty_postgres, process)
    assert (await order(vasya, "5", key="accepted")).ok(201)["value"] == 15
    (await order(vasya, "5", key="new")).problem(403)
    assert ledger.count(service.database_url, "orders") == 2
    ledger.assert_ledger_balances(service.database_url)


async def test_money_deposited_offline_can_be_spent_offline_and_survives_kills(
    empty_postgres: PostgresServer, process: ServiceProcess, service: Service
) -> None:
    vasya, frosya = await service.register(), await service.register()
    await stop_database(empty_postgres, process)
    first = (await order(vasya, "10.10", key="deposit")).ok(201)
    assert (await vasya.pay(frosya, "10", key="payment")).ok(202)["balance"] == 0
    process.kill()
    process.start()
    await process.wait_ready()
    assert (await order(vasya, "10.10", key="deposit")).ok(201) == first
    (await order(vasya, "10.11", key="deposit")).problem(422)
    (await order(frosya, "-10.01")).ok(402)
    assert (await order(frosya, "-10", key="withdrawal")).ok(201)["detail"]["balance"] == 0

    await start_database(empty_postgres, process)
    again = (await order(vasya, "10.10", key="deposit")).ok(201)
    assert (again["user_id"], str(again["value"]), again["id"]) == (vasya.id, "10.10", vasya.accounts["USD"])
    assert [await person.balance() for person in (vasya, frosya)] == [Decimal(0)] * 2
    assert (await process.health())["refused_at_settling"] == 0
    assert ledger.count(service.database_url, "orders") == 3
    ledger.assert_ledger_balances(service.database_url)


async def test_deposits_under_way_when_the_database_is_killed_are_each_booked_once(
    empty_postgres: PostgresServer, process: ServiceProcess, service: Service
) -> None:
    vasya = await service.register()
    await process.wait_filled()
    (await order(vasya, "1", key="0")).ok(201)

    async def deposit(key: str) -> None:
        async def is_accepted() -> bool:
            answer = await order(vasya, "1", key=key)
            assert answer.status in (201, 503), answer.text
            return answer.status == 201

        await eventually(is_accepted, 20, "the deposit is accepted")

    deposits = asyncio.gather(*(deposit(str(number)) for number in range(200)))
    await asyncio.to_thread(empty_postgres.kill)
    await asyncio.to_thread(empty_postgres.start)
    await deposits
    await process.wait_mode("online")
    assert await vasya.balance() == 200
    ledger.assert_ledger_balances(service.database_url)


async def test_what_was_changed_just_before_is_known(
    empty_postgres: PostgresServer, process: ServiceProcess, service: Service
) -> None:
    vasya, frosya = await service.register("vasya"), await service.register("frosya")
    admin = await service.superuser(SUPERUSER_PASSWORD)
    await process.wait_filled()
    (await order(vasya, "100")).ok(201)
    token = await vasya.token()
    form = {"current_password": vasya.password, "password": "another horse"}
    (await vasya.patch("/api/users/me", form=form)).ok()
    assert (await admin.delete("/api/users/frosya")).status == 204
    (await admin.patch("/currencies/USD", document={"commission": "0.5"})).ok()
    petya = await service.register()
    ended = await petya.token()
    assert (await admin.delete(f"/api/users/{petya.username}")).status == 204
    (await admin.patch(f"/api/users/{petya.username}", document={"is_active": True})).ok()
    await asyncio.to_thread(empty_postgres.stop)
    await process.wait_mode("stand-in")

    # Never what was: 503 where the change is not yet remembered.
    for authorization in (vasya.authorization, token, ended):
        answer = await service.get("/api/users/me", authorization=authorization)
        assert answer.status in (401, 503)
    assert (await frosya.get("/api/users/me")).status in (403, 503)
    dollar = (await service.get("/currencies")).ok()[0]
    assert dollar["commission"] == Decimal("0.5")
    renewed = Caller(service, vasya.id, "vasya", "another horse", vasya.accounts)
    paid = await renewed.pay(frosya, "10")
    assert paid.status == 503 or paid.ok(202)["balance"] == 85
    await start_database(empty_postgres, process)
    ledger.assert_ledger_balances(service.database_url)


async def test_amounts_are_strings_where_they_are_preferred_so(
    empty_postgres: PostgresServer, process: ServiceProcess, service: Service
) -> None:
    strings = {"Prefer": "money=string"}
    anna, bert = await service.register("anna"), await service.register("bert")
    (await order(anna, "100")).ok(201)
    form = {"from": anna.accounts["USD"], "to": bert.accounts["USD"], "amount": "10"}
    await stop_database(empty_postgres, process)

    async def pay() -> Answer:
        return await anna.post(f"/users/{anna.id}/transfers", form=form, key="rent-1", headers=strings)

    pending = await pay()
    assert [transfer["amount"] for transfer in pending.ok(202)["transfers"]] == ["10.00", "0.10"]
    assert pending.json()["balance"] == "89.90"
    assert (await pay()).json() == pending.json()
    for value, status in (("1.50", 201), ("-1000", 402)):
        form_of_balance = {"user_id": anna.id, "value": value}
        answer = await anna.post("/api/balances", form=form_of_balance, headers=strings)
        assert answer.headers["Preference-Applied"] == "money=string"
        detail = answer.ok(status)["detail"]
        assert (detail["value"], detail["balance"]) == (f"{Decimal(value):.2f}", "91.40")
    accounts = (await anna.get(f"/users/{anna.id}/accounts", headers=strings)).ok()
    assert [account["amount"] for account in accounts] == ["91.40", "0.00", "0.00"]
    state = await anna.get(pending.headers["Location"], headers=strings)
    assert [transfer["amount"] for transfer in state.ok()["transfers"]] == ["10.00", "0.10"]

    await start_database(empty_postgres, process)
    settled = await pay()
    assert settled.ok()["balance"] == "89.90"
    assert settled.headers["Preference-Applied"] == "money=string"
