"""Bearer tokens: what they are good for, and what ends them."""

import base64
import hmac
import json
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest

from aiopypay import __version__
from aiopypay.errors import StartError
from aiopypay.settings import Settings
from aiopypay.tokens import FILE_NAME, signing_secret
from tests import ledger
from tests.client import PASSWORD, Answer, Service
from tests.conftest import SUPERUSER_PASSWORD, StartService

SECRET = "a secret of thirty-two bytes or more"


@pytest.fixture
async def service(start_service: StartService, settings: Settings) -> Service:
    """The service, with a secret that the tests know."""
    return await start_service(replace(settings, secret_key=SECRET))


async def me(service: Service, authorization: str) -> Answer:
    return await service.get("/api/users/me", authorization=authorization)


def claims_of(token: str) -> dict[str, Any]:
    options: Any = {"verify_signature": False}
    claims: dict[str, Any] = jwt.decode(token.removeprefix("Bearer "), options=options)
    return claims


def signed(claims: dict[str, Any], secret: str = SECRET, algorithm: str = "HS256") -> str:
    return "Bearer " + jwt.encode(claims, secret, algorithm=algorithm)


async def test_the_index_says_what_answers(service: Service) -> None:
    body = (await service.get("/api/")).ok()
    assert list(body) == ["status", "response", "version", "client", "time"]
    assert (body["status"], body["version"], body["client"]) == ("OK", __version__, "127.0.0.1")
    assert body["time"].endswith("Z")


async def test_registration(service: Service) -> None:
    document = {"username": "vasya", "password": PASSWORD}
    answer = await service.post("/api/auth/register", document=document)
    assert answer.ok(201) == {"username": "vasya"}
    (await service.post("/api/auth/register", document=document)).problem(409, "username-taken", field="username")
    (await service.post("/users", form=document)).problem(409, "username-taken")
    too_short = document | {"username": "other", "password": "short"}
    (await service.post("/api/auth/register", document=too_short)).problem(400, field="password")


@pytest.mark.parametrize("as_json", [True, False])
async def test_the_oauth2_password_form(service: Service, as_json: bool) -> None:
    vasya = await service.register("Vasya")
    form = {"username": "vasya", "password": PASSWORD, "grant_type": "password", "scope": ""}
    form |= {"client_id": "string", "client_secret": "string"}
    answer = await service.post("/api/auth/token", **({"document": form} if as_json else {"form": form}))
    body = answer.ok()
    assert list(body) == ["access_token", "token_type", "expires_in"]
    assert (body["token_type"], body["expires_in"]) == ("bearer", 900)
    assert (await me(service, "Bearer " + body["access_token"])).ok() == {
        "username": "Vasya",
        "password": None,
        "is_admin": False,
        "is_active": True,
        "id": str(vasya.id),
    }


async def test_a_client_that_authenticates_itself_is_not_looked_at(service: Service) -> None:
    await service.register("vasya")
    form = {"username": "vasya", "password": PASSWORD}
    (await service.post("/api/auth/token", form=form, authorization="Basic Og==")).ok()


async def test_a_wrong_password_and_an_unknown_user_are_401(service: Service) -> None:
    await service.register("vasya")
    problems = []
    for username, password in (("vasya", "wrong"), ("frosya", PASSWORD), ("", ""), ("no such name", PASSWORD)):
        answer = await service.post("/api/auth/token", form={"username": username, "password": password})
        problem = answer.problem(401, "not-authenticated")
        problems.append({name: value for name, value in problem.items() if name != "instance"})
    assert problems == [problems[0]] * 4


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "username"),
        (b'{"username":"vasya"}', "password"),
        (b'{"username":"vasya","password":"\\ud800"}', "password"),
        (b'{"username":1,"password":"x"}', "username"),
        (b'{"username":"vasya","password":null}', "password"),
        (b'{"username":"vasya","password":"x","user":"x"}', "user"),
        (b'{"username":"vasya","username":"vasya","password":"x"}', "username"),
        (b"[]", None),
    ],
)
async def test_bad_token_requests_are_400(service: Service, body: bytes, field: str | None) -> None:
    answer = await service.post("/api/auth/token", body=body, headers={"Content-Type": "application/json"})
    answer.problem(400, field=field)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_token_opens_every_route_of_both_halves(service: Service, scheme: str) -> None:
    vasya = await service.register()
    authorization = (await vasya.token()).replace("Bearer", scheme)
    for path in (
        f"/users/{vasya.id}/accounts",
        f"/users/{vasya.id}/transfers",
        f"/accounts/{vasya.accounts['USD']}",
        "/api/users/me",
        "/api/balances/my",
    ):
        (await service.get(path, authorization=authorization)).ok()
    form = {"user_id": vasya.id, "value": "10"}
    (await service.post("/api/balances", form=form, authorization=authorization)).ok(201)
    (await service.post(f"/users/{vasya.id}/accounts/USD", authorization=authorization)).ok()


async def test_nothing_of_others(service: Service) -> None:
    vasya, frosya = await service.register(), await service.register()
    token = await vasya.token()
    (await service.get(f"/users/{frosya.id}/accounts", authorization=token)).problem(403, "forbidden")
    (await service.get("/api/users", authorization=token)).problem(403, "forbidden")


Forge = Callable[[dict[str, Any]], str]


def without(name: str) -> Forge:
    return lambda claims: signed({other: value for other, value in claims.items() if other != name})


def changed(**others: Any) -> Forge:
    return lambda claims: signed(claims | others)


def unsigned(claims: dict[str, Any]) -> str:
    def part(document: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()

    return f"Bearer {part({'alg': 'none', 'typ': 'JWT'})}.{part(claims)}."


FORGERIES: dict[str, Forge] = {
    "expired": changed(exp=int(time.time()) - 1),
    "not yet issued": changed(iat=int(time.time()) + 3600),
    "another issuer": changed(iss="somebody"),
    "another audience": changed(aud="somebody"),
    "another user's id": changed(sub="1"),
    "another user's name": changed(name="superuser"),
    "an unknown name": changed(name="nobody"),
    "no name at all": changed(name="a b"),
    "another version": changed(ver="0" * 32),
    "a version that is no text": changed(ver=1),
    "an expiry that is no number": changed(exp="tomorrow"),
    "another secret": lambda claims: signed(claims, "another secret of thirty-two bytes and more"),
    "HS384": lambda claims: signed(claims, SECRET + SECRET, "HS384"),
    "HS512 of the same secret": lambda claims: signed(claims, SECRET + SECRET, "HS512"),
    "none": unsigned,
    "cut": lambda claims: signed(claims)[:-2],
    "no signature": lambda claims: signed(claims).rpartition(".")[0] + ".",
    "not a token": lambda _: "Bearer nonsense",
    "empty": lambda _: "Bearer",
    "too long": lambda _: "Bearer " + "A" * 12_000,
    "two": lambda claims: signed(claims) + " " + signed(claims).removeprefix("Bearer "),
    **{f"without {name}": without(name) for name in ("exp", "iat", "aud", "iss", "sub", "name", "ver")},
}


async def test_the_unchanged_claims_signed_again_are_good(service: Service) -> None:
    vasya = await service.register()
    (await me(service, signed(claims_of(await vasya.token())))).ok()


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_forgeries_are_401(service: Service, forgery: str) -> None:
    vasya = await service.register()
    token = FORGERIES[forgery](claims_of(await vasya.token()))
    (await me(service, token)).problem(401, "not-authenticated")


async def test_a_token_says_when_it_ends(start_service: StartService, settings: Settings) -> None:
    service = await start_service(replace(settings, token_minutes=3))
    vasya = await service.register()
    claims = claims_of(await vasya.token())
    assert claims["exp"] - claims["iat"] == 180


async def test_a_changed_password_ends_tokens_at_once(service: Service) -> None:
    vasya = await service.register()
    token = await vasya.token()
    form = {"current_password": PASSWORD, "password": "another horse"}
    (await vasya.patch("/api/users/me", form=form)).ok()
    (await me(service, token)).problem(401, "not-authenticated")


async def test_deactivation_ends_tokens_at_once(service: Service) -> None:
    vasya, admin = await service.register(), await service.superuser(SUPERUSER_PASSWORD)
    token = await vasya.token()
    assert (await admin.delete(f"/api/users/{vasya.username}")).status == 204
    (await me(service, token)).problem(401, "not-authenticated")
    form = {"username": vasya.username, "password": PASSWORD}
    (await service.post("/api/auth/token", form=form)).problem(403, "user-deactivated")


async def test_deactivation_ends_tokens_for_good(service: Service) -> None:
    vasya, admin = await service.register(), await service.superuser(SUPERUSER_PASSWORD)
    ended = [await vasya.token()]
    for _ in range(2):
        assert (await admin.delete(f"/api/users/{vasya.username}")).status == 204
        (await admin.patch(f"/api/users/{vasya.username}", document={"is_active": True})).ok()
        for token in ended:
            (await me(service, token)).problem(401, "not-authenticated")
        ended.append(await vasya.token())
        (await admin.patch(f"/api/users/{vasya.username}", document={"is_active": True, "is_admin": True})).ok()
        (await me(service, ended[-1])).ok()


async def test_a_token_from_before_deactivations_were_counted_is_good(service: Service) -> None:
    vasya = await service.register()
    stored = ledger.value(service.database_url, "SELECT password_hash FROM users WHERE id = %s", (vasya.id,))
    message = f"credential version\0{vasya.id}\0True\0{stored}"
    version = hmac.digest(SECRET.encode(), message.encode(), "sha256")[:16].hex()
    (await me(service, signed(claims_of(await vasya.token()) | {"ver": version}))).ok()


async def test_a_role_counts_as_it_is_now(service: Service) -> None:
    vasya, admin = await service.register(), await service.superuser(SUPERUSER_PASSWORD)
    token = await vasya.token()
    for is_admin, status in ((True, 200), (False, 403)):
        (await admin.patch(f"/api/users/{vasya.username}", document={"is_admin": is_admin})).ok()
        assert (await service.get("/api/users", authorization=token)).status == status


async def test_nodes_that_share_the_secret_share_tokens(start_service: StartService, settings: Settings) -> None:
    shared = replace(settings, secret_key=SECRET)
    first, second, stranger = await start_service(shared), await start_service(shared), await start_service(settings)
    vasya = await first.register()
    token = await vasya.token()
    (await me(second, token)).ok()
    (await me(stranger, token)).problem(401)


class TestSecret:
    """The secret is a setting's, or generated once; never a default, never short."""

    def test_it_is_generated_once_for_its_owner_alone(self, tmp_path: Path) -> None:
        settings = Settings(data_dir=tmp_path)
        secret = signing_secret(settings)
        assert len(secret) >= 32
        assert signing_secret(settings) == secret
        assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
        assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
        assert signing_secret(Settings(data_dir=tmp_path / "other")) != secret

    @pytest.mark.parametrize("content", ["", "\n", "x" * 31])
    def test_a_short_one_stops_the_start(self, tmp_path: Path, content: str) -> None:
        (tmp_path / FILE_NAME).write_text(content)
        with pytest.raises(StartError, match=FILE_NAME):
            signing_secret(Settings(data_dir=tmp_path))

    def test_the_settings_comes_first_and_makes_no_file(self, tmp_path: Path) -> None:
        assert signing_secret(Settings(data_dir=tmp_path, secret_key=SECRET)) == SECRET.encode()
        assert list(tmp_path.iterdir()) == []
