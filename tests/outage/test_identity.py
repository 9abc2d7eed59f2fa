"""Who is who without the database: as online for those the node is sure of, 503 for others, and never a guess."""

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import aiohttp
import pytest

from .caller import Told, account_in, call, pay
from .load import Person, register_people, the_superuser
from .postgres import PostgresServer
from .proxy import Cut, Proxy
from .service import NewService, ServiceProcess


@dataclass
class Door:
    """A node that loses its database; Anna and Bert are known to it."""

    postgres: PostgresServer
    proxy: Proxy
    service: ServiceProcess
    anna: Person
    bert: Person

    async def enter(self, person: Person) -> Told:
        """Asks for the person's accounts."""
        return await call(self.service.base_url, "GET", f"/users/{person.id}/accounts", person.headers)

    async def pay(self, payer: Person, from_account_id: int) -> Told:
        """Pays Bert's second currency account, in yuan, from any account."""
        return await pay(self.service.base_url, payer, from_account_id, account_in(self.bert, "CNY"), "1")

    def take_database(self) -> None:
        """The node loses it."""
        self.proxy.refuse()
        self.proxy.reset()

    async def bring_database(self) -> None:
        """The node finds it again."""
        await self.proxy.accept()
        await self.service.wait_mode("online")


@pytest.fixture
async def door(empty_postgres: PostgresServer, new_service: NewService) -> AsyncIterator[Door]:
    """The database is up."""
    async with Proxy(empty_postgres.port) as proxy:
        service = new_service(proxy.dsn(empty_postgres.dsn))
        service.start()
        await service.wait_ready()
        anna, bert = await register_people(service.base_url, ["anna", "bert"])
        await service.wait_filled()
        yield Door(empty_postgres, proxy, service, anna, bert)


async def test_each_is_who_they_are(door: Door) -> None:
    door.take_database()

    assert (await door.enter(door.anna)).status == 200
    assert (await door.pay(door.anna, account_in(door.anna, "CNY"))).status == 202
    # Names know no case.
    assert (await door.enter(replace(door.anna, username="ANNA"))).status == 200
    wrong = await door.enter(replace(door.anna, password="wrong"))
    unknown = await door.enter(replace(door.anna, username="nobody"))
    assert (wrong.status, unknown.status) == (401, 401)
    assert wrong.body["detail"] == unknown.body["detail"]
    assert wrong.headers["WWW-Authenticate"].startswith("Basic ")
    none = await call(door.service.base_url, "GET", f"/users/{door.anna.id}/accounts", {})
    assert (none.status, none.body["detail"]) == (401, "Not authenticated")


async def test_nobody_sees_or_spends_what_is_not_theirs(door: Door) -> None:
    door.take_database()

    assert (await door.pay(door.anna, account_in(door.bert, "CNY"))).status == 403
    others = replace(door.anna, id=door.bert.id)
    assert (await door.enter(others)).status == 403
    assert (await door.pay(others, account_in(door.bert, "CNY"))).status == 403
    account = await call(door.service.base_url, "GET", f"/accounts/{account_in(door.bert, 'CNY')}", door.anna.headers)
    assert account.status == 403
    paid = await door.pay(door.bert, account_in(door.bert, "USD"))
    assert paid.status == 400
    booked = await pay(
        door.service.base_url, door.bert, account_in(door.bert, "USD"), account_in(door.anna, "USD"), "1"
    )
    order = f"/orders/{booked.body['order_id']}"
    assert (await call(door.service.base_url, "GET", f"/users/{door.bert.id}{order}", door.bert.headers)).status == 200
    assert (await call(door.service.base_url, "GET", f"/users/{door.anna.id}{order}", door.anna.headers)).status == 404


async def test_who_is_deactivated_stays_out(door: Door) -> None:
    door.postgres.execute("UPDATE users SET is_active = FALSE, updated_at = now() WHERE id = %s", door.anna.id)
    # What an operator changes in the database is read at the next start.
    await door.service.terminate()
    door.service.start()
    await door.service.wait_ready()
    await door.service.wait_filled()
    assert (await door.enter(door.anna)).status == 403
    door.take_database()

    assert (await door.enter(door.anna)).status == 403
    assert (await door.pay(door.anna, account_in(door.anna, "CNY"))).status == 403
    assert (await door.enter(replace(door.anna, password="wrong"))).status == 401
    # Payments to them still land.
    paid = await pay(door.service.base_url, door.bert, account_in(door.bert, "USD"), account_in(door.anna, "USD"), "1")
    assert paid.status == 202


@pytest.mark.parametrize("cut", [Cut.BEFORE_COMMIT, Cut.AFTER_COMMIT], ids=lambda cut: cut.name)
async def test_whose_registration_is_in_doubt_is_neither_known_nor_unknown(door: Door, cut: Cut) -> None:
    door.proxy.at_commit(cut)
    form = {"username": "cleo", "password": "password of cleo"}
    key = {"Idempotency-Key": "cleo-registers"}
    registered = await call(door.service.base_url, "POST", "/users", key, form)
    door.take_database()
    credentials = base64.b64encode(b"cleo:password of cleo").decode()
    cleo = {"Authorization": f"Basic {credentials}"}
    offline = await call(door.service.base_url, "GET", "/accounts/1", cleo)
    again_offline = await call(door.service.base_url, "POST", "/users", key, form)
    await door.bring_database()
    online = await call(door.service.base_url, "GET", "/accounts/1", cleo)
    again = [await call(door.service.base_url, "POST", "/users", key, form) for _ in range(2)]

    assert registered.status == 503
    assert (offline.status, offline.problem) == (503, "not-known-here")
    assert again_offline.status == 503
    # 403: somebody else's account.
    assert online.status == (403 if cut is Cut.AFTER_COMMIT else 401)
    assert [answer.status for answer in again] == [201, 201]
    assert again[0].body == again[1].body
    [(accounts,)] = door.postgres.execute("SELECT count(*) FROM accounts WHERE user_id = %s", again[0].body["id"])
    assert accounts == 3


async def test_who_is_deactivated_while_a_body_comes_stays_out_without_the_database(door: Door) -> None:
    """Their head was judged online. The rest comes when the node stands in."""
    base_url = door.service.base_url
    payer, payee = account_in(door.anna, "CNY"), account_in(door.bert, "CNY")

    async def body() -> AsyncIterator[bytes]:
        yield f"from={payer}&to={payee}".encode()
        deleted = await ended(base_url, "DELETE", f"/api/users/{door.anna.username}", the_superuser().headers)
        assert deleted == 204
        door.take_database()
        yield b"&amount=1"

    headers = door.anna.headers | {"Content-Type": "application/x-www-form-urlencoded"}
    paid = await call(base_url, "POST", f"/users/{door.anna.id}/transfers", headers, body())

    assert (paid.status, paid.problem) == (403, "user-deactivated")
    assert (await door.pay(door.bert, account_in(door.bert, "USD"))).status == 400


async def ended(base_url: str, method: str, path: str, headers: dict[str, str]) -> int:
    """Sends a request whose answer has no body, and returns the status."""
    async with aiohttp.ClientSession() as session, session.request(method, base_url + path, headers=headers) as answer:
        return answer.status


async def test_before_everything_is_remembered_an_unknown_name_proves_nothing(door: Door) -> None:
    """The mark that memory is whole is gone, as after a full disk; the node starts without the database."""
    door.take_database()
    door.service.kill()
    (door.service.data_dir / "stand-in" / "balances-are-kept").unlink()
    door.service.start()
    await door.service.wait_ready()
    unknown = await door.enter(replace(door.anna, username="nobody"))
    paid = await door.pay(door.anna, account_in(door.anna, "CNY"))

    assert (unknown.status, paid.status) == (503, 503)
    assert int(unknown.headers["Retry-After"]) > 0
    await door.bring_database()
    await door.service.wait_filled()
    assert (await door.pay(door.anna, account_in(door.anna, "CNY"))).status == 200
