"""Guessing passwords becomes slow; nobody else does."""

import asyncio
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from aiopypay import throttling
from aiopypay.errors import TooManyRequests
from aiopypay.settings import Settings
from aiopypay.throttling import Patience, Throttle
from tests.client import PASSWORD, Answer, Service, basic
from tests.conftest import StartService

pytestmark = pytest.mark.real_hashing

FREE = throttling.WITH_USER.free


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
    await service.register("vasya")
    answer = await close(service, username)
    answer.problem(429, "too-many-requests")
    assert int(answer.headers["Retry-After"]) == 1


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


class TestAddresses:
    """Forwarded addresses are believed only from the configured proxies."""

    @pytest.fixture
    async def proxied(self, start_service: StartService, settings: Settings) -> Service:
        return await start_service(replace(settings, trusted_proxies=(ip_network("127.0.0.0/8"),)))

    async def test_the_victim_is_not_kept_out_from_elsewhere(self, proxied: Service) -> None:
        (await proxied.post("/users", form={"username": "vasya", "password": PASSWORD})).ok(201)
        (await close(proxied, "vasya", X_Forwarded_For="192.0.2.1")).problem(429)
        (await guess(proxied, "vasya", PASSWORD, X_Forwarded_For="192.0.2.1")).problem(429)
        (await guess(proxied, "vasya", PASSWORD, X_Forwarded_For="192.0.2.2")).ok()

    async def test_only_the_address_that_the_proxy_appended_counts(self, proxied: Service) -> None:
        await close(proxied, "vasya", X_Forwarded_For="192.0.2.1")
        (await guess(proxied, "vasya", X_Forwarded_For="198.51.100.7, 192.0.2.1")).problem(429)
        (await guess(proxied, "vasya", X_Forwarded_For="192.0.2.1, 127.0.0.2")).problem(429)

    async def test_an_ipv6_customer_has_one_network(self, proxied: Service) -> None:
        await close(proxied, "vasya", X_Forwarded_For="2001:db8::1")
        (await guess(proxied, "vasya", X_Forwarded_For="2001:db8::2")).problem(429)
        (await guess(proxied, "vasya", X_Forwarded_For="2001:db8:0:1::1")).problem(401)

    async def test_what_is_no_address_is_not_believed(self, proxied: Service) -> None:
        await close(proxied, "vasya")
        (await guess(proxied, "vasya", X_Forwarded_For="nonsense")).problem(429)

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


class Clock:
    """The library's clock, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("limits.aio.storage.memory.time", clock)
    monkeypatch.setattr("aiopypay.throttling.time", clock)
    return clock


async def fail(throttle: Throttle, username: str = "vasya", address: str = "192.0.2.1") -> int:
    """Lets an attempt fail; returns for how long the door was closed already, 0: it was open."""
    try:
        async with throttle.attempt(username, address) as attempt:
            attempt.succeeded = False
    except TooManyRequests as refusal:
        return refusal.retry_after_seconds or 0
    return 0


async def test_each_further_failure_closes_the_door_for_twice_as_long(clock: Clock) -> None:
    throttle = Throttle()
    waits = []
    for _ in range(FREE):
        assert await fail(throttle) == 0
    for _ in range(13):
        waits.append(await fail(throttle))
        clock.now += waits[-1] - 0.5
        assert await fail(throttle) == 1
        clock.now += 0.5
        assert await fail(throttle) == 0
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]


async def test_failures_are_forgotten(clock: Clock) -> None:
    throttle = Throttle()
    for _ in range(FREE):
        await fail(throttle)
    clock.now += throttling.WITH_USER.remembered_seconds + 1
    assert [await fail(throttle) for _ in range(FREE)] == [0] * FREE


async def test_an_address_that_tries_many_users_is_slowed_as_a_whole(clock: Clock) -> None:
    throttle = Throttle()
    for number in range(throttling.WITH_ADDRESS.free):
        assert await fail(throttle, f"user{number}") == 0
    assert await fail(throttle, "another") == 1
    assert await fail(throttle, "another", "192.0.2.2") == 0
    clock.now += 1
    assert await fail(throttle, "another") == 0
    assert await fail(throttle, "yet another") == 2


async def test_a_clock_set_back_makes_nobody_wait_longer(clock: Clock) -> None:
    throttle = Throttle()
    for _ in range(FREE):
        await fail(throttle)
    clock.now -= 86_400
    assert await fail(throttle) == 1


async def test_what_was_not_verified_counts_as_nothing(clock: Clock) -> None:
    throttle = Throttle()
    for _ in range(FREE + 5):
        with pytest.raises(RuntimeError):
            async with throttle.attempt("vasya", "192.0.2.1"):
                raise RuntimeError("too many are being verified")
    assert await fail(throttle) == 0


async def test_memory_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttling, "COUNTERS_MAX", 50)
    throttle = Throttle()
    for number in range(1_000):
        await fail(throttle, f"user{number}", f"192.0.2.{number}")
    counters: Any = throttle._storage.storage
    assert len(counters) <= 52
    assert not throttle._running


def test_patience_is_more_for_an_address_than_for_one_user() -> None:
    user, address = throttling.WITH_USER, throttling.WITH_ADDRESS
    assert isinstance(user, Patience)
    assert address.free > user.free
    assert address.longest_seconds < user.longest_seconds
