"""What a page of another site may have a browser do here: nothing, unless the operator has listed its origin."""

import re
from dataclasses import replace
from decimal import Decimal
from urllib.parse import urlsplit

import pytest
from multidict import CIMultiDict

from aiopypay.app import create_app
from aiopypay.settings import Settings
from tests.api import raw
from tests.client import Answer, Caller, Service, basic
from tests.conftest import StartService

LISTED = "https://shop.example"
EVIL = {"Origin": "https://evil.example"}
# The service's own host is written in as HOST. The last tells whether a write passes.
JUDGED = [
    ({}, True),
    ({"Sec-Fetch-Site": "same-origin"}, True),
    ({"Sec-Fetch-Site": "none"}, True),
    ({"Sec-Fetch-Site": "same-site"}, False),
    ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": ""}, False),
    ({"Sec-Fetch-Site": "same-origin, cross-site"}, False),
    ({"Origin": "http://HOST"}, True),
    ({"Origin": "https://HOST"}, True),
    ({"Origin": "http://HOST", "Sec-Fetch-Site": "same-origin"}, True),
    ({"Origin": "http://HOST", "Sec-Fetch-Site": "cross-site"}, False),
    ({"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"}, False),
    ({"Origin": "https://evil.example"}, False),
    ({"Origin": "null"}, False),
    ({"Origin": "null", "Sec-Fetch-Site": "none"}, False),
    ({"Origin": ""}, False),
    ({"Origin": "*"}, False),
    ({"Origin": "HOST"}, False),
    ({"Origin": "http://127.0.0.1"}, False),
    ({"Origin": "http://127.0.0.1:1"}, False),
    ({"Origin": "http://HOST.evil.example"}, False),
    ({"Origin": "http://HOST@evil.example"}, False),
    ({"Origin": "http://evil.example/HOST"}, False),
    ({"Origin": "http://HOST/"}, False),
    ({"Origin": "http://HOST, https://evil.example"}, False),
    ({"Origin": "capacitor://HOST"}, False),
    ({"Origin": "https://shop.example", "Host": "shop.example"}, True),
    ({"Origin": "https://shop.example", "Host": "SHOP.example"}, True),
    ({"Origin": "https://shop.example", "Host": "shop.example:443"}, True),
    ({"Origin": "http://shop.example", "Host": "shop.example:443"}, False),
    ({"Origin": "https://shop.example:8443", "Host": "shop.example"}, False),
    ({"Origin": "http://[::1]:8080", "Host": "[::1]:8080"}, True),
    ({"Origin": "http://a b", "Host": "a b"}, False),
    # Behind a proxy that is believed.
    ({"Origin": "https://shop.example", "X-Forwarded-Host": "shop.example"}, True),
    ({"Origin": "https://shop.example:8443", "X-Forwarded-Host": "shop.example:8443"}, True),
    ({"Origin": "https://shop.example", "X-Forwarded-Host": "evil.example, shop.example"}, True),
    ({"Origin": "https://evil.example", "X-Forwarded-Host": "evil.example, shop.example"}, False),
    ({"Origin": "http://HOST", "X-Forwarded-Host": "shop.example"}, False),
    ({"Origin": "http://HOST", "X-Forwarded-Host": ""}, True),
    # It is the client's own where the proxy knows the other headers only.
    ({"Origin": "https://shop.example", "Forwarded": "for=192.0.2.1;host=shop.example;proto=https"}, False),
]
FOREIGN_BODIES = {
    "application/x-www-form-urlencoded": b"from={source}&to={target}&amount=10",
    "application/json": b'{"from": {source}, "to": {target}, "amount": 10}',
    "text/plain": b'{"from": {source}, "to": {target}, "amount": 10, "x=": ""}',
    "text/csv": b"from,to,amount\n{source},{target},10\n",
    "multipart/form-data; boundary=x": b'--x\r\nContent-Disposition: form-data; name="amount"\r\n\r\n10\r\n--x--\r\n',
}


@pytest.fixture
async def listing_service(start_service: StartService, settings: Settings) -> Service:
    """A service whose operator has listed an origin."""
    return await start_service(replace(settings, cors_origins=(LISTED, "http://localhost:3000")))


def unsafe_routes() -> list[tuple[str, str]]:
    """Method and path of each, with something in place of what varies; and some that there are not."""
    router = create_app(Settings(database_url="postgresql://nobody@127.0.0.1:9/nothing")).router
    found = [
        (route.method, re.sub(r"\{currency_id\}", "USD", route.resource.canonical))
        for route in router.routes()
        if route.method not in ("GET", "HEAD") and route.resource is not None
    ]
    known = [(method, re.sub(r"\{\w+\}", "2", path)) for method, path in found]
    return [*known, ("POST", "/nowhere"), ("PUT", "/users/2/transfers"), ("DELETE", "/"), ("PROPFIND", "/currencies")]


def named(headers: dict[str, str], service: Service) -> dict[str, str]:
    """The headers with the service's host in them."""
    host = urlsplit(service.base_url).netloc
    return {name: value.replace("HOST", host) for name, value in headers.items()}


def is_told(answer: Answer, origin: str = LISTED) -> bool:
    """Whether a page of the origin may read the answer. No browser may take it for another origin's."""
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert "Origin" in answer.headers.getall("Vary")
    return answer.headers.get("Access-Control-Allow-Origin") == origin


@pytest.mark.parametrize(("headers", "passes"), JUDGED)
async def test_the_head_of_a_write_is_judged(shared_service: Service, headers: dict[str, str], passes: bool) -> None:
    answer = await shared_service.post("/nowhere", headers=named(headers, shared_service))
    answer.problem(*((404, "not-found") if passes else (403, "cross-site")))


async def test_a_forwarded_host_is_believed_from_trusted_proxies_only(service: Service) -> None:
    for header in ({"X-Forwarded-Host": "shop.example"}, {"Forwarded": "host=shop.example"}):
        (await service.post("/nowhere", headers={"Origin": LISTED, **header})).problem(403, "cross-site")
        (await service.post("/nowhere", headers=named({"Origin": "http://HOST", **header}, service))).problem(404)


async def test_several_origins_are_nobodys(listing_service: Service) -> None:
    own = f"http://{urlsplit(listing_service.base_url).netloc}"
    for origins in ((own, own), (LISTED, LISTED), (LISTED, "https://evil.example")):
        sent = CIMultiDict([("Origin", origin) for origin in origins])
        (await listing_service.post("/nowhere", headers=sent)).problem(403, "cross-site", field="Origin")


@pytest.mark.parametrize(("method", "path"), unsafe_routes())
async def test_every_write_is_judged_whatever_its_body(shared_service: Service, method: str, path: str) -> None:
    for media_type, body in [*FOREIGN_BODIES.items(), ("", None)]:
        for foreign in (EVIL, {"Sec-Fetch-Site": "cross-site"}):
            sent = {**foreign, "Content-Type": media_type, "Authorization": basic("nobody", "wrong")}
            answer = await shared_service.request(method, path, headers=sent, body=body)
            answer.problem(403, "cross-site", field=next(iter(foreign)))


async def test_reads_are_not(shared_service: Service) -> None:
    (await shared_service.get("/currencies", headers={**EVIL, "Sec-Fetch-Site": "cross-site"})).ok()
    (await shared_service.request("OPTIONS", "/currencies", headers=EVIL)).problem(405)


async def test_nobody_waits_for_the_body(shared_service: Service) -> None:
    sent = {"Content_Type": "application/json", "Content_Length": "100", "Authorization": basic("nobody", "wrong")}
    answer = await raw.exchange(shared_service, raw.head("POST", "/users/2/transfers", **EVIL, **sent), seconds=5)
    answer.problem(403, "cross-site")


@pytest.mark.parametrize("media_type", FOREIGN_BODIES)
async def test_nothing_is_booked_with_password_or_token(alice: Caller, bob: Caller, media_type: str) -> None:
    accounts = {b"{source}": alice.accounts["USD"], b"{target}": bob.accounts["USD"]}
    body = FOREIGN_BODIES[media_type]
    for place, account in accounts.items():
        body = body.replace(place, str(account).encode())
    path = f"/users/{alice.id}/transfers" + ("/bulk?mode=each" if media_type == "text/csv" else "")
    for authorization in (alice.authorization, await alice.token()):
        sent = {"Content-Type": media_type, **EVIL}
        answer = await alice.service.post(path, headers=sent, authorization=authorization, body=body)
        answer.problem(403, "cross-site")
    assert await alice.balance() == Decimal(100)


async def test_a_preflight_of_a_listed_origin_is_answered_anywhere(listing_service: Service) -> None:
    asked = {"Origin": LISTED, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "prefer"}
    for path in ("/users/2/transfers", "/api/balances", "/nowhere"):
        answer = await listing_service.request("OPTIONS", path, headers=asked)
        assert answer.status == 204
        assert is_told(answer)
        answer.has_common_headers()
        assert answer.headers["Access-Control-Allow-Methods"] == "GET, HEAD, POST, PUT, PATCH, DELETE"
        assert answer.headers["Access-Control-Allow-Headers"] == (
            "Authorization, Content-Type, Idempotency-Key, Prefer, Last-Event-ID, X-Request-ID"
        )


@pytest.mark.parametrize(
    "asked",
    [
        {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
        {"Origin": "https://SHOP.example", "Access-Control-Request-Method": "POST"},
        {"Origin": "http://shop.example", "Access-Control-Request-Method": "POST"},
        {"Origin": "null", "Access-Control-Request-Method": "POST"},
        {"Origin": LISTED},
        {"Access-Control-Request-Method": "POST"},
    ],
)
async def test_no_other_preflight_is(listing_service: Service, asked: dict[str, str]) -> None:
    answer = await listing_service.request("OPTIONS", "/users/2/transfers", headers=asked)
    answer.problem(405, "method-not-allowed")
    assert "Access-Control-Allow-Methods" not in answer.headers
    assert is_told(answer) is (asked.get("Origin") == LISTED)


async def test_a_page_of_a_listed_origin_pays_and_reads_every_answer(listing_service: Service) -> None:
    alice = await listing_service.register()
    foreign = {"Origin": LISTED, "Sec-Fetch-Site": "cross-site"}
    transfer = {"from": alice.accounts["USD"], "to": await alice.open_account("USD"), "amount": 10}
    path, token = f"/users/{alice.id}/transfers", await alice.token()
    answers = {
        204: await alice.service.request("OPTIONS", path, headers=foreign | {"Access-Control-Request-Method": "POST"}),
        200: await alice.get(path, headers=foreign),
        400: await alice.post(path, headers=foreign),
        401: await alice.service.post(path, headers=foreign),
        402: await alice.service.post(path, headers=foreign, authorization=token, document=transfer),
        403: await alice.get("/accounts/1", headers=foreign),
        404: await alice.service.post("/nowhere", headers=foreign),
        405: await alice.service.request("DELETE", path, headers=foreign),
        413: await alice.post(path, headers=foreign, body=b"x" * 20_000),
        415: await alice.post(path, headers=foreign, body=b"x"),
    }
    for status, answer in answers.items():
        assert answer.status == status
        assert is_told(answer), status
        assert answer.headers["Access-Control-Expose-Headers"] == (
            "Link, Location, Retry-After, Aiopypay-Mode, X-Request-ID, Preference-Applied, Content-Disposition, "
            "WWW-Authenticate"
        )


async def test_other_origins_read_nothing(listing_service: Service) -> None:
    for headers in ({}, EVIL, {"Origin": f"{LISTED}."}, {"Origin": "null"}):
        answer = await listing_service.get("/currencies", headers=headers)
        answer.ok()
        assert not is_told(answer)
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_where_none_is_listed_nothing_is_said_of_origins(shared_service: Service) -> None:
    for answer in (
        await shared_service.get("/currencies", headers={"Origin": LISTED}),
        await shared_service.request(
            "OPTIONS", "/currencies", headers={"Origin": LISTED, "Access-Control-Request-Method": "GET"}
        ),
    ):
        assert not [name for name in answer.headers if name.startswith("Access-Control-") or name == "Vary"]
