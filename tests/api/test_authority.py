"""Whose authority ends while a request is on its way does nothing with it: bodies that trickle, argon2, the queue."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from aiopypay import group_commit
from aiopypay.authenticator import Authenticator
from aiopypay.batches import Batcher
from aiopypay.group_commit import GroupCommit
from aiopypay.ledger import TransferOrder
from aiopypay.passwords import Match, Passwords
from aiopypay.store.users import User
from aiopypay.units import Authority, Unit
from tests import ledger
from tests.api.raw import exchange, head, read_answer
from tests.client import PASSWORD, Answer, Caller, Service, basic

FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Sent:
    """A request of Vasya's: where it goes, and its body."""

    method: str
    path: str
    body: bytes
    content_type: str = FORM


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set once a caller was let in."""
    event = asyncio.Event()
    authenticate = Authenticator.authenticate

    async def watched(self: Authenticator, request: web.Request) -> User:
        user = await authenticate(self, request)
        event.set()
        return user

    monkeypatch.setattr(Authenticator, "authenticate", watched)
    return event


async def trickled(
    service: Service, sent: Sent, authorization: str, judged: asyncio.Event, meanwhile: Callable[[], Awaitable[Any]]
) -> Answer:
    """Sends the head and half of the body, waits until it was judged, does the other thing, sends the rest."""
    address = urlsplit(service.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    judged.clear()
    middle = len(sent.body) // 2
    try:
        async with asyncio.timeout(10):
            headers = {"Authorization": authorization, "Content_Type": sent.content_type}
            writer.write(head(sent.method, sent.path, **headers, Content_Length=str(len(sent.body))))
            writer.write(sent.body[:middle])
            await judged.wait()
            await meanwhile()
            writer.write(sent.body[middle:])
            return await read_answer(reader)
    finally:
        writer.close()


def requests_of(vasya: Caller, bob: Caller) -> dict[str, Sent]:
    """One of each kind that has a body."""
    pay = f"from={vasya.accounts['USD']}&to={bob.accounts['USD']}&amount=1".encode()
    transfer = f'{{"from": {vasya.accounts["USD"]}, "to": {bob.accounts["USD"]}, "amount": 1}}'
    path = f"/users/{vasya.id}/transfers"
    return {
        "transfer": Sent("POST", path, pay),
        "bulk": Sent(
            "POST", f"{path}/bulk", f'{{"mode": "all", "transfers": [{transfer}]}}'.encode(), "application/json"
        ),
        "deposit": Sent("POST", "/api/balances", f"user_id={vasya.id}&value=7".encode()),
        "account": Sent("POST", f"/users/{vasya.id}/accounts/USD", b"{}", "application/json"),
        "own password": Sent("PATCH", "/api/users/me", f"current_password={PASSWORD}&password=other horse".encode()),
    }


def administration(bob: Caller) -> dict[str, Sent]:
    """What admins alone may do."""
    return {
        "user": Sent("PATCH", f"/api/users/{bob.username}", b"is_admin=true&is_active=true"),
        "new currency": Sent("POST", "/currencies", b"id=XTS&description=Test&commission=0.01&decimals=2"),
        "currency": Sent("PATCH", "/currencies/USD", b"commission=0.99"),
        "deposit for another": Sent("POST", "/api/balances", f"user_id={bob.id}&value=7".encode()),
    }


def books(service: Service) -> list[tuple[Any, ...]]:
    """All that any of these requests could change."""
    return [
        *ledger.query(service.database_url, "SELECT id, amount FROM accounts ORDER BY id"),
        *ledger.query(service.database_url, "SELECT id, commission FROM currencies ORDER BY id"),
        *ledger.query(service.database_url, "SELECT id, is_admin FROM users WHERE username = 'bob'"),
        *ledger.query(service.database_url, "SELECT id, password_hash FROM users ORDER BY id"),
    ]


@pytest.fixture
async def vasya(service: Service) -> Caller:
    """A user with 100 dollars."""
    caller = await service.register("vasya")
    ledger.deposit(service.database_url, caller.accounts["USD"], "100")
    return caller


@pytest.mark.parametrize("kind", ["transfer", "bulk", "deposit", "account", "own password"])
@pytest.mark.parametrize("with_token", [False, True], ids=["password", "token"])
async def test_who_is_deactivated_while_the_body_comes_does_nothing(
    service: Service, vasya: Caller, bob: Caller, admin: Caller, judged: asyncio.Event, kind: str, with_token: bool
) -> None:
    authorization = await vasya.token() if with_token else vasya.authorization
    before = books(service)

    async def deactivate() -> None:
        assert (await admin.delete(f"/api/users/{vasya.username}")).status == 204

    answer = await trickled(service, requests_of(vasya, bob)[kind], authorization, judged, deactivate)
    if with_token:
        answer.problem(401, "not-authenticated")
    else:
        answer.problem(403, "user-deactivated")
    assert books(service) == before


@pytest.mark.parametrize("kind", ["user", "new currency", "currency", "deposit for another"])
async def test_who_is_demoted_while_the_body_comes_is_no_admin(
    service: Service, vasya: Caller, bob: Caller, admin: Caller, judged: asyncio.Event, kind: str
) -> None:
    (await admin.patch("/api/users/vasya", form={"is_admin": "true"})).ok()
    before = books(service)

    async def demote() -> None:
        (await admin.patch("/api/users/vasya", form={"is_admin": "false"})).ok()

    answer = await trickled(service, administration(bob)[kind], vasya.authorization, judged, demote)
    answer.problem(403, "forbidden")
    assert books(service) == before


@pytest.mark.parametrize("with_token", [False, True], ids=["password", "token"])
async def test_a_password_that_is_changed_while_the_body_comes_ends_the_request(
    service: Service, vasya: Caller, bob: Caller, admin: Caller, judged: asyncio.Event, with_token: bool
) -> None:
    authorization = await vasya.token() if with_token else vasya.authorization

    async def change() -> None:
        (await admin.patch("/api/users/vasya", form={"password": "another horse"})).ok()

    answer = await trickled(service, requests_of(vasya, bob)["transfer"], authorization, judged, change)
    answer.problem(401, "not-authenticated")
    assert await bob.balance() == 0


async def test_a_body_that_comes_late_and_changes_nothing_is_taken(
    service: Service, vasya: Caller, bob: Caller, judged: asyncio.Event
) -> None:
    async def nothing() -> None:
        pass

    for kind in ("transfer", "bulk", "deposit", "account", "own password"):
        sent = requests_of(vasya, bob)[kind]
        answer = await trickled(service, sent, vasya.authorization, judged, nothing)
        assert answer.status in (200, 201), answer.text
    assert await bob.balance() == 2


async def test_credentials_are_judged_before_the_body_has_come(service: Service, vasya: Caller, bob: Caller) -> None:
    for kind, sent in {**requests_of(vasya, bob), **administration(bob)}.items():
        announced = {"Content_Type": sent.content_type, "Content_Length": str(len(sent.body))}
        for authorization, status in ((basic("vasya", "wrong horse"), 401), (bob.authorization, 403)):
            if kind in ("deposit", "deposit for another", "own password") and status == 403:
                continue
            answer = await exchange(service, head(sent.method, sent.path, Authorization=authorization, **announced))
            answer.problem(status)


@pytest.mark.parametrize(
    ("change", "status"),
    [("is_active = FALSE", 403), ("password_hash = '!'", 401)],
    ids=["deactivated", "another password"],
)
async def test_who_changes_while_argon2_runs_is_judged_as_they_are_then(
    service: Service, vasya: Caller, monkeypatch: pytest.MonkeyPatch, change: str, status: int
) -> None:
    verify = Passwords.verify

    async def slow(self: Passwords, encoded: str, password: str, *turn: Any) -> Match:
        match = await verify(self, encoded, password, *turn)
        ledger.query(service.database_url, f"UPDATE users SET {change} WHERE id = %s", (vasya.id,))
        return match

    monkeypatch.setattr(Passwords, "verify", slow)
    form = {"username": "Vasya", "password": PASSWORD}
    (await service.post("/api/auth/token", form=form)).problem(status)


async def test_a_hash_that_is_renewed_while_argon2_runs_is_verified_too(
    service: Service, vasya: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify, verified = Passwords.verify, 0
    renewed = await renewed_hash()

    async def slow(self: Passwords, encoded: str, password: str, *turn: Any) -> Match:
        nonlocal verified
        verified += 1
        match = await verify(self, encoded, password, *turn)
        ledger.query(service.database_url, "UPDATE users SET password_hash = %s WHERE id = %s", (renewed, vasya.id))
        return match

    monkeypatch.setattr(Passwords, "verify", slow)
    (await service.post("/api/auth/token", form={"username": "Vasya", "password": PASSWORD})).ok()
    assert verified == 2


async def renewed_hash() -> str:
    """Returns a hash of the same password with another salt."""
    passwords = Passwords()
    try:
        return await passwords.hash(PASSWORD)
    finally:
        passwords.close()


async def test_an_admin_who_is_demoted_while_a_password_is_hashed_sets_none(
    service: Service, vasya: Caller, bob: Caller, admin: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    (await admin.patch("/api/users/vasya", form={"is_admin": "true"})).ok()
    hash_of = Passwords.hash

    async def slow(self: Passwords, password: str, *turn: Any) -> str:
        ledger.query(service.database_url, "UPDATE users SET is_admin = FALSE WHERE id = %s", (vasya.id,))
        return await hash_of(self, password, *turn)

    monkeypatch.setattr(Passwords, "hash", slow)
    before = books(service)
    (await vasya.patch("/api/users/bob", form={"password": "another horse"})).problem(403, "forbidden")
    assert books(service) == before


@pytest.mark.parametrize("kind", ["transfer", "bulk", "deposit for another"])
async def test_orders_that_waited_for_their_batch_are_looked_at_again(
    service: Service, vasya: Caller, bob: Caller, admin: Caller, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (await admin.patch("/api/users/vasya", form={"is_admin": "true"})).ok()
    submit = Batcher.submit

    async def queued(self: Any, unit: Any) -> Any:
        if isinstance(unit, Unit):
            change = "is_active = FALSE" if kind != "deposit for another" else "is_admin = FALSE"
            ledger.query(service.database_url, f"UPDATE users SET {change} WHERE id = %s", (vasya.id,))
        return await submit(self, unit)

    monkeypatch.setattr(group_commit, "AUTHORITY_SECONDS", -1.0)
    monkeypatch.setattr(Batcher, "submit", queued)
    before = books(service)
    sent = {**requests_of(vasya, bob), **administration(bob)}[kind]
    headers = {"Content-Type": sent.content_type, "Idempotency-Key": "once"}
    answer = await vasya.post(sent.path, body=sent.body, headers=headers)
    answer.problem(403, "forbidden" if kind == "deposit for another" else "user-deactivated")
    after = books(service)
    assert [row for row in after if row not in before] == []


async def test_an_order_that_waited_and_whose_caller_is_the_same_is_booked(
    service: Service, vasya: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "AUTHORITY_SECONDS", -1.0)
    answers = await asyncio.gather(*(vasya.pay(bob, "1", key="once") for _ in range(5)))
    assert [answer.status for answer in answers] == [200] * 5
    assert await bob.balance() == 1


async def test_a_caller_that_changes_without_end_is_told_to_try_again(
    service: Service, vasya: Caller, bob: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    post = GroupCommit.post

    async def changing(self: GroupCommit, order: TransferOrder, authority: Authority | None = None) -> Any:
        statement = "UPDATE users SET full_name = full_name || '.' WHERE id = %s"
        ledger.query(service.database_url, statement, (vasya.id,))
        return await post(self, order, authority)

    monkeypatch.setattr(group_commit, "AUTHORITY_SECONDS", -1.0)
    monkeypatch.setattr(GroupCommit, "post", changing)
    (await vasya.pay(bob, "1")).problem(503, "access-changed")
    assert await bob.balance() == 0
