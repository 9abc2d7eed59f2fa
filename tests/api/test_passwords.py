"""Passwords over HTTP: which ones may be set, and that one is right however a keyboard types it."""

from dataclasses import replace

import pytest
from argon2 import PasswordHasher

from aiopypay.errors import StartError
from aiopypay.settings import Settings
from aiopypay.superuser import ensure_password
from tests import ledger
from tests.client import PASSWORD, Caller, Service, basic
from tests.conftest import StartService

COMPOSED, DECOMPOSED = "\u00e9clair du caf\u00e9", "e\u0301clair du cafe\u0301"

# It has its own name, and is no common one.
VASYA = "vasya.pupkin"


@pytest.fixture
async def vasya(service: Service) -> Caller:
    """A user with a password like others."""
    return await service.register(VASYA)


@pytest.mark.parametrize("password", ["password", "Password", "sunshine", "Petya.Pupkin", "petya.pupkin"])
async def test_what_is_guessed_first_is_refused_wherever_it_is_set(
    service: Service, vasya: Caller, admin: Caller, password: str
) -> None:
    form = {"username": "petya.pupkin", "password": password}
    for path in ("/users", "/api/auth/register"):
        problem = (await service.post(path, form=form)).problem(400, "invalid-request", field="password")
        assert "Choose another" in problem["detail"]
    password = password.replace("petya", "vasya").replace("Petya", "Vasya")
    change = {"current_password": PASSWORD, "password": password}
    (await vasya.patch("/api/users/me", form=change)).problem(400, field="password")
    (await admin.patch("/api/users/vasya.pupkin", form={"password": password})).problem(400, field="password")
    (await vasya.get("/api/users/me")).ok()


async def test_a_shortest_below_8_is_the_operators_own_rule(start_service: StartService, settings: Settings) -> None:
    service = await start_service(replace(settings, password_min_length=7))
    (await service.post("/users", form={"username": "password", "password": "password"})).ok(201)


@pytest.mark.parametrize("chosen", ["password", "SuperUser"])
async def test_the_superuser_gets_none_of_them(settings: Settings, chosen: str) -> None:
    ledger.query(settings.database_url or "", "UPDATE users SET password_hash = '!' WHERE id = 1")
    with pytest.raises(StartError, match="APP_SUPERUSER_PASSWORD"):
        await ensure_password(replace(settings, superuser_password=chosen))
    await ensure_password(replace(settings, superuser_password=chosen, password_min_length=4))
    # It counts when the superuser is created, and is not looked at again.
    await ensure_password(replace(settings, superuser_password=chosen))


@pytest.mark.parametrize(("registered", "typed"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
async def test_one_password_however_it_is_typed(service: Service, registered: str, typed: str) -> None:
    await service.register(VASYA, password=registered)
    for password in (typed, registered):
        (await service.get("/api/users/me", authorization=basic(VASYA, password))).ok()
        (await service.post("/api/auth/token", form={"username": VASYA, "password": password})).ok()
    wrong = basic(VASYA, typed.replace("du", "de"))
    (await service.get("/api/users/me", authorization=wrong)).problem(401)
    change = {"current_password": typed, "password": "another horse"}
    answer = await service.request("PATCH", "/api/users/me", form=change, authorization=basic(VASYA, registered))
    answer.ok()


async def test_a_hash_from_before_passwords_were_normalised_is_good_and_renewed(
    service: Service, vasya: Caller
) -> None:
    before = PasswordHasher(2, 64, 1).hash(DECOMPOSED)
    ledger.query(service.database_url, "UPDATE users SET password_hash = %s WHERE id = %s", (before, vasya.id))
    (await service.get("/api/users/me", authorization=basic(VASYA, DECOMPOSED))).ok()
    stored = ledger.value(service.database_url, "SELECT password_hash FROM users WHERE id = %s", (vasya.id,))
    assert PasswordHasher().verify(stored, COMPOSED)
    for password in (COMPOSED, DECOMPOSED):
        (await service.get("/api/users/me", authorization=basic(VASYA, password))).ok()


async def test_length_is_counted_in_characters_of_the_normal_form(service: Service) -> None:
    seven, eight = "e\u0301" * 7, "e\u0301" * 8
    (await service.post("/users", form={"username": VASYA, "password": seven})).problem(400, field="password")
    (await service.post("/users", form={"username": VASYA, "password": eight})).ok(201)
    longest, longer = "e\u0301" * 256, "e\u0301" * 257
    (await service.post("/users", form={"username": "longer", "password": longer})).problem(400, field="password")
    (await service.post("/users", form={"username": "longest", "password": longest})).ok(201)
