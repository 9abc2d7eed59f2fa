"""The administration of users, for admins."""

from typing import Any

import pytest

from tests import ledger
from tests.client import PASSWORD, Caller, Service, basic
from tests.conftest import SUPERUSER_PASSWORD


async def listed(admin: Caller, query: str = "") -> Any:
    return (await admin.get(f"/api/users?{query}")).ok()


async def names(admin: Caller, query: str = "") -> list[str]:
    return [item["username"] for item in (await listed(admin, query))["items"]]


async def test_a_page_of_users(service: Service, admin: Caller) -> None:
    vasya = await service.register("vasya")
    answer = await admin.get("/api/users")
    assert list(answer.ok()) == ["items", "total", "limit", "offset"]
    assert answer.ok() == {
        "items": [
            {"username": "superuser", "password": None, "is_admin": True, "is_active": True, "id": "1"},
            {"username": "vasya", "password": None, "is_admin": False, "is_active": True, "id": str(vasya.id)},
        ],
        "total": 2,
        "limit": 100,
        "offset": 0,
    }


async def test_pages_sorting_and_filters(service: Service, admin: Caller) -> None:
    for name in ("anna", "Boris", "clara"):
        await service.register(name)
    (await admin.patch("/api/users/clara", document={"is_active": False})).ok()
    assert await names(admin) == ["superuser", "anna", "Boris", "clara"]
    assert await names(admin, "desc=true") == ["clara", "Boris", "anna", "superuser"]
    assert await names(admin, "sort_by=username") == ["anna", "Boris", "clara", "superuser"]
    assert await names(admin, "sort_by=updated_at&desc=true&limit=1") == ["clara"]
    assert await names(admin, "is_active=false") == ["clara"]
    assert await names(admin, "is_admin=true") == ["superuser"]
    assert await names(admin, "is_active=true&is_admin=false") == ["anna", "Boris"]
    # As a client in Python writes it, and with fields that were left empty.
    assert await names(admin, "is_active=True&is_admin=False&limit=&offset=&sort_by=&desc=") == ["anna", "Boris"]
    page = await listed(admin, "limit=2&offset=1&is_admin=false")
    assert [item["username"] for item in page["items"]] == ["Boris", "clara"]
    assert (page["total"], page["limit"], page["offset"]) == (3, 2, 1)
    assert await listed(admin, f"offset={2**62}") == {"items": [], "total": 4, "limit": 100, "offset": 2**62}


@pytest.mark.parametrize("column", ["id", "username", "created_at", "updated_at", "is_admin", "is_active"])
async def test_each_column_sorts(admin: Caller, column: str) -> None:
    assert await names(admin, f"sort_by={column}") == ["superuser"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("limit", value) for value in ("0", "-1", "1000000000", "x", "1.0")],
        *[("offset", value) for value in ("-1", "x", str(2**63))],
        *[("sort_by", value) for value in ("password_hash", "full_name", "id;", "ID", "1", "id%20desc")],
        *[(name, value) for name in ("desc", "is_active", "is_admin") for value in ("yes", "1")],
        ("colour", "red"),
    ],
)
async def test_bad_queries_are_400_and_named(admin: Caller, field: str, value: str) -> None:
    (await admin.get(f"/api/users?{field}={value}")).problem(400, field=field)


async def test_one_user_in_any_case_of_their_name(service: Service, admin: Caller) -> None:
    vasya = await service.register("Vasya")
    body = (await admin.get("/api/users/vASYA")).ok()
    assert body == {"username": "Vasya", "password": None, "is_admin": False, "is_active": True, "id": str(vasya.id)}


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
@pytest.mark.parametrize("name", ["nobody", "no%20name", "x" * 65, "%00", "%2e%2e%2f"])
async def test_unknown_names_are_404(admin: Caller, method: str, name: str) -> None:
    answer = await admin.service.request(method, f"/api/users/{name}", authorization=admin.authorization)
    answer.problem(404, "not-found")


async def test_a_patch_changes_what_it_names(service: Service, admin: Caller) -> None:
    vasya = await service.register("vasya")
    body = (await admin.patch("/api/users/vasya", document={"is_admin": True})).ok()
    assert (body["is_admin"], body["is_active"]) == (True, True)
    (await vasya.get("/api/users")).ok()
    body = (await admin.patch("/api/users/vasya", form={"is_admin": "false", "password": "another horse"})).ok()
    assert body["is_admin"] is False
    (await vasya.get("/api/users/me")).problem(401)
    new = basic("vasya", "another horse")
    (await service.get("/api/users/me", authorization=new)).ok()
    (await service.get("/api/users", authorization=new)).problem(403, "forbidden")


async def test_an_empty_patch_changes_nothing(service: Service, admin: Caller) -> None:
    vasya = await service.register()
    for nothing in ({}, {"password": None, "is_active": None}):
        assert (await admin.patch(f"/api/users/{vasya.username}", document=nothing)).ok()["is_active"] is True
    (await vasya.get("/api/users/me")).ok()


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"password": "short"}, "password"),
        ({"is_active": 1}, "is_active"),
        ({"is_admin": "yes"}, "is_admin"),
        ({"username": "other"}, "username"),
        ({"id": 7}, "id"),
    ],
)
async def test_bad_patches_are_400_and_named(
    service: Service, admin: Caller, document: dict[str, Any], field: str
) -> None:
    vasya = await service.register()
    (await admin.patch(f"/api/users/{vasya.username}", document=document)).problem(400, field=field)


async def test_deletion_deactivates_and_keeps_everything(service: Service, admin: Caller) -> None:
    vasya = await service.register("vasya")
    before = ledger.counts(service.database_url)
    answer = await admin.delete("/api/users/vasya")
    assert (answer.status, answer.body) == (204, b"")
    answer.has_common_headers()
    assert (await admin.delete("/api/users/vasya")).status == 204
    (await vasya.get("/api/users/me")).problem(403, "user-deactivated")
    (await service.get("/api/users/me", authorization=basic("vasya", "wrong"))).problem(401)
    assert ledger.counts(service.database_url) == before
    (await admin.patch("/api/users/vasya", document={"is_active": True})).ok()
    (await vasya.get("/api/users/me")).ok()


async def test_payments_to_the_deactivated_still_land(service: Service, admin: Caller) -> None:
    vasya = await service.register()
    assert (await admin.delete(f"/api/users/{vasya.username}")).status == 204
    form = {"user_id": vasya.id, "value": "5"}
    assert (await admin.post("/api/balances", form=form)).ok(201)["value"] == 5


class TestOneself:
    """Nobody locks themselves out."""

    @pytest.mark.parametrize("document", [{"is_active": False}, {"is_admin": False}])
    @pytest.mark.parametrize("name", ["superuser", "SuperUser"])
    async def test_demotion_and_deactivation_are_409(self, admin: Caller, name: str, document: dict[str, bool]) -> None:
        (await admin.patch(f"/api/users/{name}", document=document)).problem(409, "own-access")
        (await admin.delete(f"/api/users/{name}")).problem(409, "own-access")
        assert (await admin.get("/api/users/superuser")).ok()["is_admin"] is True

    async def test_another_admin_may(self, service: Service, admin: Caller) -> None:
        vasya = await service.register("vasya")
        (await admin.patch("/api/users/vasya", document={"is_admin": True})).ok()
        (await vasya.patch("/api/users/superuser", document={"is_admin": False})).ok()
        (await admin.get("/api/users")).problem(403, "forbidden")

    async def test_what_changes_nothing_is_allowed(self, admin: Caller) -> None:
        document = {"is_active": True, "is_admin": True, "password": "another horse"}
        (await admin.patch("/api/users/superuser", document=document)).ok()


ROUTES = [("GET", "/api/users"), ("GET", "/api/users/superuser"), ("PATCH", "/api/users/superuser")]
ROUTES += [("DELETE", "/api/users/superuser"), ("POST", "/currencies"), ("PATCH", "/currencies/USD")]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_it_is_for_admins_alone(service: Service, method: str, path: str) -> None:
    vasya = await service.register()
    (await service.request(method, path)).problem(401, "not-authenticated")
    for authorization in (vasya.authorization, await vasya.token()):
        (await service.request(method, path, authorization=authorization)).problem(403, "forbidden")


async def test_each_change_moves_updated_at_forward(service: Service, admin: Caller) -> None:
    await service.register("vasya")
    sql = "SELECT coalesce(updated_at, created_at) FROM users WHERE username = 'vasya'"
    moments = [ledger.value(service.database_url, sql)]
    for is_admin in (True, False, True):
        (await admin.patch("/api/users/vasya", document={"is_admin": is_admin})).ok()
        moments.append(ledger.value(service.database_url, sql))
    ledger.query(service.database_url, "UPDATE users SET updated_at = '2000-01-01' WHERE username = 'vasya'")
    moments.append(ledger.value(service.database_url, sql))
    assert moments == sorted(set(moments))


async def test_changes_reach_another_process_at_once(start_service: Any, settings: Any) -> None:
    first, second = await start_service(settings), await start_service(settings)
    admin, vasya = await first.superuser(SUPERUSER_PASSWORD), await first.register("vasya")
    elsewhere = vasya.at(second)
    (await elsewhere.get("/api/users/me")).ok()
    (await admin.patch("/api/users/vasya", document={"is_admin": True})).ok()
    (await elsewhere.get("/api/users")).ok()
    (await admin.patch("/api/users/vasya", document={"password": PASSWORD + "!"})).ok()
    (await elsewhere.get("/api/users/me")).problem(401)
