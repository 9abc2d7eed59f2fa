"""Who sends a request: HTTP Basic, argon2id, and what is remembered of it."""

import asyncio
import base64
from typing import Any

import argon2
import pytest
from multidict import CIMultiDict

from aiopypay.passwords import Match, Passwords
from aiopypay.settings import Settings
from tests import ledger
from tests.client import PASSWORD, Answer, Caller, Service, basic
from tests.conftest import SUPERUSER_PASSWORD, StartService, register_apart

pytestmark = pytest.mark.real_hashing


class Argon2Count:
    """How often argon2 ran."""

    verifications = 0
    hashes = 0


@pytest.fixture
def argon2_count(monkeypatch: pytest.MonkeyPatch) -> Argon2Count:
    """Counts what runs in argon2; what it answers stays real."""
    count = Argon2Count()
    verify, make_hash = Passwords.verify, Passwords.hash

    async def counted_verify(self: Passwords, encoded: str, password: str, *turn: Any) -> Match:
        count.verifications += 1
        return await verify(self, encoded, password, *turn)

    async def counted_hash(self: Passwords, password: str, *turn: Any) -> str:
        count.hashes += 1
        return await make_hash(self, password, *turn)

    monkeypatch.setattr(Passwords, "verify", counted_verify)
    monkeypatch.setattr(Passwords, "hash", counted_hash)
    return count


async def accounts(service: Service, user_id: int, authorization: str | None, **options: Any) -> Answer:
    return await service.get(f"/users/{user_id}/accounts", authorization=authorization, **options)


def set_hash(service: Service, user_id: int, encoded: str) -> None:
    ledger.query(service.database_url, "UPDATE users SET password_hash = %s WHERE id = %s", (encoded, user_id))


async def test_without_credentials_the_answer_says_so(service: Service) -> None:
    caller = await service.register()
    problem = (await accounts(service, caller.id, None)).problem(401, "not-authenticated")
    assert problem["detail"] == "Not authenticated"


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC"])
async def test_the_scheme_is_basic_in_any_case(service: Service, scheme: str) -> None:
    caller = await service.register()
    token = caller.authorization.partition(" ")[2]
    (await accounts(service, caller.id, f"{scheme} {token}")).ok()


@pytest.fixture(scope="module")
def shared_vasya(shared_base_url: str, shared_database_url: str) -> Caller:
    """The user whose credentials are nearly sent."""
    return register_apart(shared_base_url, shared_database_url, "vasya")


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic dmFzeWE",
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic " + base64.b64encode(b"vasya:\xff\xfe").decode(),
        "Basic " + base64.b64encode(b":").decode(),
        "Basic " + base64.b64encode(b"vasya:").decode(),
        "Basic " + base64.b64encode(b":correct horse").decode(),
        "Basic " + base64.b64encode(b"vas\0ya:correct horse").decode(),
        "Basic " + base64.b64encode(b"vasya\n:correct horse").decode(),
        "Basic " + base64.b64encode(b"vasya:" + b"x" * 9_000).decode(),
        "Basic " + base64.b64encode(b"x" * 9_000 + b":correct horse").decode(),
        "Basic " + base64.b64encode(b"vasya:correct horse").decode() + ", Basic x",
        "Basic" + base64.b64encode(b"vasya:correct horse").decode(),
        "Basic " + "A" * 12_000,
        "Digest username=vasya",
        "Bearer",
        "Bearer abc.def.ghi",
        "vasya:correct horse",
    ],
)
async def test_what_is_not_valid_credentials_is_401(
    shared_service: Service, shared_vasya: Caller, authorization: str
) -> None:
    (await accounts(shared_service, shared_vasya.id, authorization)).problem(401, "not-authenticated")


async def test_two_authorization_headers_are_refused(service: Service) -> None:
    caller = await service.register()
    headers = CIMultiDict([("Authorization", caller.authorization)] * 2)
    answer = await service.get(f"/users/{caller.id}/accounts", headers=headers)
    answer.problem(400, "invalid-request", field="Authorization")


@pytest.mark.parametrize("username", ["vasya", "VASYA", "vASYA"])
async def test_login_ignores_the_case_of_the_username(service: Service, username: str) -> None:
    vasya = await service.register("Vasya")
    (await accounts(service, vasya.id, basic(username, PASSWORD))).ok()


@pytest.mark.parametrize("password", ["CORRECT HORSE", "correct horse ", " correct horse", "correct hors", ""])
async def test_passwords_are_compared_exactly(service: Service, password: str) -> None:
    vasya = await service.register("vasya")
    (await accounts(service, vasya.id, basic("vasya", password))).problem(401)


@pytest.mark.parametrize("password", ["with: two: colons", ":colon first", "пароль 🔑🔑🔑", "x" * 256, "  spaces  "])
async def test_passwords_may_hold_colons_spaces_and_unicode(service: Service, password: str) -> None:
    vasya = await service.register("vasya", password=password)
    (await accounts(service, vasya.id, basic("vasya", password))).ok()


async def test_an_unknown_user_and_a_wrong_password_are_indistinguishable(
    service: Service, argon2_count: Argon2Count
) -> None:
    vasya = await service.register("vasya")
    before = argon2_count.verifications
    wrong = await accounts(service, vasya.id, basic("vasya", "wrong horse"))
    between = argon2_count.verifications
    unknown = await accounts(service, vasya.id, basic("frosya", "wrong horse"))
    assert (between - before, argon2_count.verifications - between) == (1, 1)
    problems = [answer.problem(401, "not-authenticated") for answer in (wrong, unknown)]
    for problem in problems:
        del problem["instance"]
    assert problems[0] == problems[1]
    assert [name for name in wrong.headers if name != "Date"] == [name for name in unknown.headers if name != "Date"]


@pytest.mark.parametrize("username", ["frosya", "fro sya", "x" * 65, "фрося", ""])
async def test_any_unknown_user_goes_through_one_verification(
    service: Service, argon2_count: Argon2Count, username: str
) -> None:
    (await accounts(service, 1, basic(username, PASSWORD))).problem(401)
    assert argon2_count.verifications == 1


async def test_nobodys_password_can_be_guessed(service: Service) -> None:
    # A superuser that was never given a password has a hash that nothing matches.
    set_hash(service, 1, "!")
    for password in ("!", "", SUPERUSER_PASSWORD):
        (await accounts(service, 1, basic("superuser", password))).problem(401)


async def test_a_deactivated_user_is_told_so_only_after_the_right_password(service: Service) -> None:
    vasya = await service.register("vasya")
    ledger.query(service.database_url, "UPDATE users SET is_active = FALSE WHERE id = %s", (vasya.id,))
    (await accounts(service, vasya.id, basic("vasya", "wrong horse"))).problem(401, "not-authenticated")
    (await accounts(service, vasya.id, vasya.authorization)).problem(403)
    (await vasya.post(f"/users/{vasya.id}/accounts/USD")).problem(403)
    assert len(ledger.query(service.database_url, "SELECT 1 FROM accounts WHERE user_id = %s", (vasya.id,))) == 3
    ledger.query(service.database_url, "UPDATE users SET is_active = TRUE WHERE id = %s", (vasya.id,))
    (await accounts(service, vasya.id, vasya.authorization)).ok()


async def test_a_changed_password_counts_at_once(service: Service) -> None:
    vasya = await service.register("vasya")
    (await accounts(service, vasya.id, vasya.authorization)).ok()
    set_hash(service, vasya.id, argon2.PasswordHasher(2, 19_456, 1).hash("another horse"))
    (await accounts(service, vasya.id, vasya.authorization)).problem(401)
    (await accounts(service, vasya.id, basic("vasya", "another horse"))).ok()


async def test_verified_credentials_are_remembered(service: Service, argon2_count: Argon2Count) -> None:
    vasya = await service.register("vasya")
    before = argon2_count.verifications
    for _ in range(5):
        (await accounts(service, vasya.id, vasya.authorization)).ok()
    assert argon2_count.verifications - before == 0, "registering listed the accounts: that was the one verification"


async def test_wrong_ones_never_are(service: Service, argon2_count: Argon2Count) -> None:
    vasya = await service.register("vasya")
    before = argon2_count.verifications
    for _ in range(3):
        (await accounts(service, vasya.id, basic("vasya", "wrong horse"))).problem(401)
    assert argon2_count.verifications - before == 3


async def test_concurrent_requests_with_the_same_credentials_share_one_verification(
    service: Service, argon2_count: Argon2Count
) -> None:
    (await service.post("/users", form={"username": "vasya", "password": PASSWORD})).ok(201)
    user_id = ledger.value(service.database_url, "SELECT id FROM users WHERE username = 'vasya'")
    answers = await asyncio.gather(*(accounts(service, user_id, basic("vasya", PASSWORD)) for _ in range(50)))
    assert {answer.status for answer in answers} == {200}
    assert argon2_count.verifications == 1


async def test_concurrent_wrong_and_right_passwords_do_not_mix(service: Service) -> None:
    vasya = await service.register("vasya")
    right, wrong = vasya.authorization, basic("vasya", "wrong horse")
    answers = await asyncio.gather(*(accounts(service, vasya.id, text) for text in [right, wrong] * 10))
    assert [answer.status for answer in answers] == [200, 401] * 10


async def test_a_hash_of_outdated_parameters_is_renewed_at_login(service: Service, argon2_count: Argon2Count) -> None:
    vasya = await service.register("vasya")
    set_hash(service, vasya.id, argon2.PasswordHasher(1, 64, 1).hash(PASSWORD))
    hashes = argon2_count.hashes
    (await accounts(service, vasya.id, vasya.authorization)).ok()
    renewed = ledger.value(service.database_url, "SELECT password_hash FROM users WHERE id = %s", (vasya.id,))
    assert renewed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    (await accounts(service, vasya.id, vasya.authorization)).ok()
    (await accounts(service, vasya.id, basic("vasya", "wrong horse"))).problem(401)
    assert argon2_count.hashes - hashes == 1


async def test_a_wrong_password_renews_nothing(service: Service) -> None:
    vasya = await service.register("vasya")
    outdated = argon2.PasswordHasher(1, 64, 1).hash(PASSWORD)
    set_hash(service, vasya.id, outdated)
    (await accounts(service, vasya.id, basic("vasya", "wrong horse"))).problem(401)
    assert ledger.value(service.database_url, "SELECT password_hash FROM users WHERE id = %s", (vasya.id,)) == outdated


async def test_one_users_credentials_are_not_anothers(service: Service) -> None:
    vasya, frosya = await service.register("vasya"), await service.register("frosya")
    (await accounts(service, frosya.id, vasya.authorization)).problem(403, "forbidden")
    (await accounts(service, frosya.id, basic("frosya", PASSWORD + "x"))).problem(401)


async def test_the_superuser_has_the_password_of_the_settings(service: Service) -> None:
    (await accounts(service, 1, basic("superuser", SUPERUSER_PASSWORD))).ok()
    (await accounts(service, 1, basic("superuser", "password"))).problem(401)


async def test_credentials_come_before_the_body(service: Service) -> None:
    caller = await service.register()
    answer = await service.post(f"/users/{caller.id}/transfers", body=b"\xff", headers={"Content-Type": "text/plain"})
    answer.problem(401)


async def test_more_verifications_than_the_queue_holds_are_503(
    start_service: StartService, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiopypay.passwords.QUEUE_MAX", 2)
    service = await start_service(settings)
    answers = await asyncio.gather(*(accounts(service, 1, basic(f"user{number}", PASSWORD)) for number in range(10)))
    for answer in answers:
        answer.problem(answer.status)
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {401, 503}
    (await accounts(service, 1, basic("superuser", SUPERUSER_PASSWORD))).ok()
