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
from aiopypay.tokens import FILE_NAME, signing_keys
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


def signed(claims: dict[str, Any], secret: str = SECRET, algorithm: str = "HS256", *, key_id: str | None = None) -> str:
    headers = None if key_id is None else {"kid": key_id}
    return "Bearer " + jwt.encode(claims, secret, algorithm=algorithm, headers=headers)


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


@pytest.mark.parametrize("as_json", [True, False])
async def test_what_a_token_request_does_not_know_is_not_looked_at(service: Service, as_json: bool) -> None:
    await service.register("vasya")
    form = {"username": "vasya", "password": PASSWORD, "grant_type": "", "audience": "x", "resource": "y"}
    answer = await service.post("/api/auth/token", **({"document": form} if as_json else {"form": form}))
    answer.ok()
    assert answer.headers["Pragma"] == "no-cache"
    others = b'{"username":"vasya","password":"' + PASSWORD.encode() + b'","a":null,"b":[{}],"a":1}'
    (await service.post("/api/auth/token", body=others, headers={"Content-Type": "application/json"})).ok()


@pytest.mark.parametrize(
    ("changed", "status", "error"),
    [
        ({"password": "wrong horse"}, 401, "invalid_grant"),
        ({"username": "nobody"}, 401, "invalid_grant"),
        ({"grant_type": "client_credentials"}, 400, "unsupported_grant_type"),
        ({"grant_type": "PASSWORD"}, 400, "unsupported_grant_type"),
        ({"password": None}, 400, "invalid_request"),
    ],
    ids=["wrong password", "unknown user", "another grant", "case", "missing"],
)
async def test_problems_bear_the_code_of_rfc_6749(
    service: Service, changed: dict[str, str | None], status: int, error: str
) -> None:
    await service.register("vasya")
    form = {"username": "vasya", "password": PASSWORD, "grant_type": "password"} | changed
    sent = {name: value for name, value in form.items() if value is not None}
    problem = (await service.post("/api/auth/token", form=sent)).problem(status)
    assert problem["error"] == error


async def test_what_keeps_a_token_from_being_asked_for_bears_a_code_too(service: Service) -> None:
    vasya, admin = await service.register("vasya"), await service.superuser(SUPERUSER_PASSWORD)
    twice = b"username=vasya&password=x&password=x"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    problem = (await service.post("/api/auth/token", body=twice, headers=headers)).problem(400, field="password")
    assert problem["error"] == "invalid_request"
    problem = (await service.post("/api/auth/token", body=b"x", headers={"Content-Type": "text/plain"})).problem(415)
    assert problem["error"] == "invalid_request"
    assert (await admin.delete(f"/api/users/{vasya.username}")).status == 204
    form = {"username": vasya.username, "password": PASSWORD}
    assert (await service.post("/api/auth/token", form=form)).problem(403)["error"] == "invalid_grant"
    assert "error" not in (await me(service, "Bearer nonsense")).problem(401)


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


def with_key_id(claims: dict[str, Any], key_id: Any) -> str:
    """A token whose header PyJWT would not write."""
    header, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "typ": "JWT", "kid": key_id}, claims)
    )
    signature = hmac.digest(SECRET.encode(), header + b"." + body, "sha256")
    return "Bearer " + b".".join((header, body, base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()


def unsigned(claims: dict[str, Any]) -> str:
    def part(document: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()

    return f"Bearer {part({'alg': 'none', 'typ': 'JWT'})}.{part(claims)}."


FORGERIES: dict[str, Forge] = {
    "expired": changed(exp=int(time.time()) - 1),
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
    "another secret's name": lambda claims: signed(claims, key_id="another"),
    "a name that is no text": lambda claims: with_key_id(claims, 1),
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


@pytest.mark.parametrize("seconds", [1, 3600])
async def test_a_clock_that_is_ahead_ends_no_token(service: Service, seconds: int) -> None:
    vasya = await service.register()
    claims = claims_of(await vasya.token())
    (await me(service, signed(claims | {"iat": int(time.time()) + seconds}))).ok()


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


async def test_a_key_is_replaced_step_by_step(start_service: StartService, settings: Settings) -> None:
    """Each step is taken node by node, while tokens of the step before are in use."""
    new = "another secret of thirty-two bytes and more"
    old_only, both, new_first, new_only = [
        await start_service(replace(settings, secret_key=keys))
        for keys in (SECRET, f"{SECRET},{new}", f"{new}, {SECRET}", new)
    ]
    vasya = await old_only.register()
    of_old, of_both = await vasya.token(), await vasya.at(both).token()
    of_new = await vasya.at(new_first).token()
    names = [jwt.get_unverified_header(token.removeprefix("Bearer "))["kid"] for token in (of_old, of_both, of_new)]
    assert names[0] == names[1] != names[2]
    for token in (of_old, of_both, of_new):
        for service in (both, new_first):
            (await me(service, token)).ok()
    (await me(old_only, of_new)).problem(401)
    (await me(new_only, of_old)).problem(401)
    (await me(new_only, of_new)).ok()
    # Tokens from before keys had names.
    (await me(new_first, signed(claims_of(of_old)))).ok()
    form = {"current_password": PASSWORD, "password": "another horse"}
    (await vasya.at(new_first).patch("/api/users/me", form=form)).ok()
    for token in (of_old, of_new):
        (await me(new_first, token)).problem(401)


class TestSecret:
    """The secret is a setting's, or generated once; never a default, never short."""

    def test_it_is_generated_once_for_its_owner_alone(self, tmp_path: Path) -> None:
        settings = Settings(data_dir=tmp_path)
        [secret] = signing_keys(settings)
        assert len(secret) >= 32
        assert signing_keys(settings) == [secret]
        assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
        assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
        assert signing_keys(Settings(data_dir=tmp_path / "other")) != [secret]

    @pytest.mark.parametrize("content", ["", "\n", "x" * 31, "x" * 40 + ",", "x" * 40 + "," + "y" * 31])
    def test_a_short_one_stops_the_start(self, tmp_path: Path, content: str) -> None:
        (tmp_path / FILE_NAME).write_text(content)
        with pytest.raises(StartError, match=FILE_NAME):
            signing_keys(Settings(data_dir=tmp_path))

    def test_the_settings_comes_first_and_makes_no_file(self, tmp_path: Path) -> None:
        assert signing_keys(Settings(data_dir=tmp_path, secret_key=SECRET)) == [SECRET.encode()]
        assert list(tmp_path.iterdir()) == []
