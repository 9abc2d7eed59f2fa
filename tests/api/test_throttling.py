"""Guessing passwords becomes slow; nobody else does."""

import asyncio
import re
import time
from dataclasses import replace
from ipaddress import ip_network

import pytest

from aiopypay import throttling
from aiopypay.settings import Settings
from tests.client import PASSWORD, Answer, Service, basic
from tests.conftest import SUPERUSER_PASSWORD, StartService

FREE = throttling.FREE


@pytest.fixture(autouse=True)
def _refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttling, "REFUSAL_SECONDS", 0.0)


async def guess(service: Service, username: str, guessed: str = "wrong", **headers: str) -> Answer:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await service.get("/api/users/me", authorization=basic(username, guessed), headers=sent)


async def close(service: Service, username: str, **headers: str) -> Answer:
    """Guesses until the door is closed."""
    for number in range(FREE):
        (await guess(service, username, f"wrong {number}", **headers)).problem(401)
    return await guess(service, username, "wrong", **headers)


@pytest.mark.parametrize("username", ["vasya", "nobody"])
async def test_after_some_failures_the_door_is_closed(service: Service, username: str) -> None:
    (await service.post("/users", form={"username": "vasya", "password": PASSWORD})).ok(201)
    answer = await close(service, username)
    answer.problem(429, "too-many-requests")
    assert 50 <= int(answer.headers["Retry-After"]) <= 60


async def test_the_name_in_another_case_is_the_same_user(service: Service) -> None:
    await close(service, "nobody")
    (await guess(service, "NoBody")).problem(429)


async def test_a_token_is_guessed_through_the_same_door(service: Service) -> None:
    await close(service, "nobody")
    form = {"username": "nobody", "password": "wrong"}
    (await service.post("/api/auth/token", form=form)).problem(429)


async def test_and_so_is_the_current_password(service: Service) -> None:
    vasya = await service.register("vasya")
    form = {"current_password": "wrong", "password": "another horse"}
    statuses = [(await vasya.patch("/api/users/me", form=form)).status for _ in range(FREE + 1)]
    assert statuses == [403] * FREE + [429]


async def test_remembered_credentials_and_tokens_are_never_slowed(service: Service) -> None:
    vasya = await service.register("vasya")
    token = await vasya.token()
    (await close(service, "vasya")).problem(429)
    (await vasya.get("/api/users/me")).ok()
    (await service.get("/api/users/me", authorization=token)).ok()


async def test_successes_are_not_counted(service: Service) -> None:
    people = [await service.register() for _ in range(FREE + 2)]
    for person in people:
        (await guess(service, person.username, PASSWORD)).ok()


async def test_a_success_forgives_earlier_failures(service: Service) -> None:
    (await service.post("/users", form={"username": "vasya", "password": PASSWORD})).ok(201)
    for number in range(FREE - 1):
        (await guess(service, "vasya", f"wrong {number}")).problem(401)
    (await guess(service, "vasya", PASSWORD)).ok()
    for number in range(FREE - 1):
        (await guess(service, "vasya", f"wrong {number}")).problem(401)


async def test_many_guesses_at_once_are_not_free(service: Service) -> None:
    answers = await asyncio.gather(*(guess(service, "vasya", f"wrong {number}") for number in range(5 * FREE)))
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {401, 429}
    assert statuses.count(401) <= FREE


async def test_right_and_wrong_have_the_same_answer(service: Service) -> None:
    (await service.post("/users", form={"username": "vasya", "password": PASSWORD})).ok(201)
    await close(service, "vasya")
    answers = [await guess(service, "vasya", guessed) for guessed in (PASSWORD, "wrong")]
    problems = [answer.problem(429) for answer in answers]
    assert re.sub("[0-9]+", "", problems[0]["detail"]) == re.sub("[0-9]+", "", problems[1]["detail"])


async def test_an_address_is_never_closed_to_everybody(service: Service) -> None:
    """As through a proxy that is not trusted, or from a shop's backend."""
    (await service.post("/users", form={"username": "vasya", "password": PASSWORD})).ok(201)
    for number in range(0, 120, 30):
        guesses = (guess(service, f"somebody{number + more}") for more in range(30))
        assert {answer.status for answer in await asyncio.gather(*guesses)} == {401}
    (await guess(service, "vasya", PASSWORD)).ok()
    (await guess(service, "superuser", SUPERUSER_PASSWORD)).ok()


async def test_a_refusal_takes_its_time(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    await close(service, "nobody")
    monkeypatch.setattr(throttling, "REFUSAL_SECONDS", 0.3)
    started = time.monotonic()
    (await guess(service, "nobody")).problem(429)
    assert time.monotonic() - started >= 0.3


class TestAddresses:
    """Forwarded addresses are believed only from the configured proxies."""

    @pytest.fixture
    async def proxied(self, start_service: StartService, settings: Settings) -> Service:
        return await start_service(replace(settings, trusted_proxies=(ip_network("127.0.0.0/8"),)))

    async def test_who_is_attacked_gets_in_from_where_they_were_before(self, proxied: Service) -> None:
        form = {"username": "vasya", "password": PASSWORD}
        (await proxied.post("/users", form=form)).ok(201)
        (await guess(proxied, "vasya", PASSWORD, X_Forwarded_For="2001:db8::1")).ok()
        for number in range(FREE):
            (await guess(proxied, "vasya", "wrong", X_Forwarded_For=f"192.0.2.{number}")).problem(401)
        for guessed in ("wrong", PASSWORD):
            (await guess(proxied, "vasya", guessed, X_Forwarded_For="192.0.2.99")).problem(429)
        # In capitals they are not the credentials that are remembered.
        (await guess(proxied, "VASYA", PASSWORD, X_Forwarded_For="2001:db8::2")).ok()
        (await guess(proxied, "VASYA", "wrong", X_Forwarded_For="2001:db8::3")).problem(401)

    async def test_what_is_remembered_for_one_address_is_not_told_to_another(self, proxied: Service) -> None:
        vasya = await proxied.register("vasya")
        await close(proxied, "vasya", X_Forwarded_For="192.0.2.1")
        (await guess(proxied, "vasya", PASSWORD, X_Forwarded_For="192.0.2.1")).problem(429)
        (await vasya.get("/api/users/me")).ok()

    async def test_only_the_address_that_the_proxy_appended_counts(self, proxied: Service) -> None:
        for forwarded in ("198.51.100.7, 192.0.2.1", "192.0.2.1:80, 127.0.0.2"):
            assert (await proxied.get("/api/", headers={"X-Forwarded-For": forwarded})).ok()["client"] == "192.0.2.1"

    async def test_what_is_no_address_is_not_taken_for_the_proxy(self, proxied: Service) -> None:
        await close(proxied, "vasya", X_Forwarded_For="nonsense")
        assert (await proxied.get("/api/", headers={"X-Forwarded-For": "unknown"})).ok()["client"] == "unknown"
        (await guess(proxied, "frosya", X_Forwarded_For="_another")).problem(401)

    async def test_without_configured_proxies_nothing_is(self, service: Service) -> None:
        await close(service, "vasya", X_Forwarded_For="192.0.2.1")
        (await guess(service, "vasya", X_Forwarded_For="192.0.2.2")).problem(429)
        assert (await service.get("/api/", headers={"X-Forwarded-For": "192.0.2.2"})).ok()["client"] == "127.0.0.1"

    async def test_the_index_tells_the_client_of_a_proxy(self, proxied: Service) -> None:
        assert (await proxied.get("/api/", headers={"X-Forwarded-For": "192.0.2.2"})).ok()["client"] == "192.0.2.2"


@pytest.mark.parametrize("path", ["/users", "/api/auth/register"])
async def test_registrations_are_bounded_by_address(start_service: StartService, settings: Settings, path: str) -> None:
    service = await start_service(replace(settings, registrations_per_minute=2))
    for number in range(2):
        (await service.post(path, form={"username": f"user{number}", "password": PASSWORD})).ok(201)
    answer = await service.post(path, form={"username": "user2", "password": PASSWORD})
    answer.problem(429, "too-many-requests")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
