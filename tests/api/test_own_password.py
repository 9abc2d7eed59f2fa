"""PATCH /api/users/me: changing one's own password."""

import asyncio

import pytest

from tests.client import PASSWORD, Answer, Caller, Service, basic

pytestmark = pytest.mark.real_hashing

NEW = "another horse"


async def change(caller: Caller, current: str = PASSWORD, new: str = NEW, authorization: str | None = None) -> Answer:
    form = {"current_password": current, "password": new}
    authorization = authorization or caller.authorization
    return await caller.service.request("PATCH", "/api/users/me", form=form, authorization=authorization)


async def me(service: Service, authorization: str) -> Answer:
    return await service.get("/api/users/me", authorization=authorization)


@pytest.mark.parametrize("with_token", [False, True])
async def test_the_new_password_counts_at_once_and_everything_older_ends(service: Service, with_token: bool) -> None:
    vasya = await service.register("vasya")
    tokens = [await vasya.token(), await vasya.token()]
    body = (await change(vasya, authorization=tokens[0] if with_token else None)).ok()
    assert body == {"username": "vasya", "password": None, "is_admin": False, "is_active": True, "id": str(vasya.id)}
    (await me(service, basic("vasya", NEW))).ok()
    for authorization in (vasya.authorization, *tokens):
        (await me(service, authorization)).problem(401, "not-authenticated")


async def test_a_wrong_current_password_changes_nothing(service: Service) -> None:
    vasya = await service.register()
    (await change(vasya, current="wrong horse")).problem(403, "wrong-password", field="current_password")
    (await me(service, vasya.authorization)).ok()


async def test_a_new_one_that_is_too_short_changes_nothing(service: Service) -> None:
    vasya = await service.register()
    (await change(vasya, new="short")).problem(400, field="password")
    (await me(service, vasya.authorization)).ok()


@pytest.mark.parametrize("form", [{"password": NEW}, {"current_password": PASSWORD}, {}])
async def test_both_are_needed(service: Service, form: dict[str, str]) -> None:
    vasya = await service.register()
    (await vasya.patch("/api/users/me", document=form)).problem(400)


async def test_nobody_gives_themselves_rights(service: Service) -> None:
    vasya = await service.register()
    document = {"current_password": PASSWORD, "password": NEW, "is_admin": True}
    (await vasya.patch("/api/users/me", document=document)).problem(400, field="is_admin")


async def test_of_two_changes_at_once_one_is_made(service: Service) -> None:
    vasya = await service.register("vasya")
    answers = await asyncio.gather(change(vasya, new="one horse"), change(vasya, new="two horses"))
    assert sorted(answer.status for answer in answers) == [200, 401]
    statuses = [(await me(service, basic("vasya", new))).status for new in ("one horse", "two horses")]
    assert sorted(statuses) == [200, 401]


async def test_without_credentials_nothing(service: Service) -> None:
    (await service.request("PATCH", "/api/users/me", form={})).problem(401)
