"""A registration that is sent again under its Idempotency-Key is answered as the first one."""

import asyncio
from typing import Any

import pytest

from tests import ledger
from tests.client import PASSWORD, Answer, Caller, Service

ROUTES = ["/users", "/api/auth/register"]


async def register(service: Service, key: str | None, path: str = "/users", **changed: Any) -> Answer:
    form = {"username": "vasya", "password": PASSWORD} | ({"full_name": "Vasya Pupkin"} if path == "/users" else {})
    return await service.post(path, form=form | changed, key=key)


@pytest.mark.parametrize("path", ROUTES)
async def test_the_same_again_is_the_same_user(service: Service, path: str) -> None:
    first = (await register(service, "k1", path)).ok(201)
    for _ in range(2):
        assert (await register(service, "k1", path)).ok(201) == first
    assert ledger.value(service.database_url, "SELECT count(*) FROM users WHERE id > 1") == 1
    assert ledger.value(service.database_url, "SELECT count(*) FROM accounts WHERE user_id > 1") == 3


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        ("k2", {}),
        (None, {}),
        ("k1", {"password": "another horse"}),
        ("k1", {"full_name": "Somebody Else"}),
        ("k1", {"username": "Vasya"}),
    ],
    ids=["another key", "no key", "another password", "another full name", "another case"],
)
async def test_anything_else_is_a_name_that_is_taken(
    service: Service, key: str | None, changed: dict[str, str]
) -> None:
    (await register(service, "k1")).ok(201)
    (await register(service, key, **changed)).problem(409, "username-taken", field="username")


async def test_who_registered_without_a_key_has_none(service: Service, admin: Caller) -> None:
    (await register(service, None)).ok(201)
    (await register(service, "k1")).problem(409, "username-taken")
    # Their names are no secret, nor that they exist.
    (await register(service, "k1", username="superuser", full_name="Superuser")).problem(409, "username-taken")


async def test_a_key_is_the_names_alone(service: Service) -> None:
    first = (await register(service, "k1")).ok(201)
    second = (await register(service, "k1", username="frosya")).ok(201)
    assert first["id"] != second["id"]


async def test_sent_many_times_at_once_it_registers_once(service: Service) -> None:
    answers = await asyncio.gather(*(register(service, "k1") for _ in range(8)))
    assert [answer.status for answer in answers] == [201] * 8
    assert len({answer.ok(201)["id"] for answer in answers}) == 1


async def test_the_password_is_the_one_of_now(service: Service) -> None:
    user = (await register(service, "k1")).ok(201)
    vasya = Caller(service, user["id"], "vasya", PASSWORD, {})
    (await vasya.patch("/api/users/me", form={"current_password": PASSWORD, "password": "another horse"})).ok()
    (await register(service, "k1")).problem(409, "username-taken")
    assert (await register(service, "k1", password="another horse")).ok(201) == user


async def test_passwords_are_not_guessed_by_it(service: Service) -> None:
    (await register(service, "k1")).ok(201)
    statuses = [(await register(service, "k1", password=f"wrong horse {number}")).status for number in range(12)]
    assert statuses[0] == 409
    assert statuses[-1] == 429


@pytest.mark.parametrize("key", ["with space", "x" * 256, "ключ".encode().decode("latin-1")])
async def test_a_malformed_key_is_400(service: Service, key: str) -> None:
    (await register(service, key)).problem(400, field="Idempotency-Key")


async def test_the_key_is_kept_beside_the_user_and_nothing_of_the_password(service: Service) -> None:
    (await register(service, "k1", password="a rare password")).ok(201)
    row = ledger.value(service.database_url, "SELECT users::text FROM users WHERE username = 'vasya'")
    assert "k1" in row
    assert "rare" not in row
