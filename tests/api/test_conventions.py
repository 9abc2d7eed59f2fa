"""What holds on every route: headers, problems, media types, fields, limits."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests import ledger
from tests.api import raw
from tests.client import PASSWORD, Answer, Caller, Service

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}
FORM_BODY = b"username=vasya&password=correct+horse"
JSON_BODY = b'{"username": "vasya", "password": "correct horse"}'


async def users(service: Service, body: Any, content_type: str | None, **headers: str) -> Answer:
    sent = dict(headers) if content_type is None else {"Content-Type": content_type, **headers}
    return await service.post("/users", body=body, headers=sent)


def registered(service: Service) -> int:
    return ledger.count(service.database_url, "users") - 1


# Request ids and headers


async def test_every_response_carries_the_common_headers(service: Service) -> None:
    caller = await service.register()
    answers = {
        "a document": await service.get("/currencies"),
        "health": await service.get("/health"),
        "metrics": await service.get("/metrics"),
        "400": await caller.transfer("x", "y", "z"),
        "401": await service.get("/accounts/1"),
        "403": await caller.get("/accounts/1"),
        "404, none such": await caller.get("/accounts/99999999"),
        "404, no route": await service.get("/nowhere"),
        "405": await service.request("DELETE", "/currencies"),
        "413": await users(service, b"x" * 20_000, "application/json"),
        "415": await users(service, b"x", "text/plain"),
    }
    for answer in answers.values():
        answer.has_common_headers()
    assert len({answer.headers["X-Request-ID"] for answer in answers.values()}) == len(answers)


@pytest.mark.parametrize("request_id", ["abc", "8e03978e-40d5-43dd-bc93-6894a57f9324", "A.b_c-1:2"])
async def test_a_sane_request_id_is_kept(shared_service: Service, request_id: str) -> None:
    answer = await shared_service.get("/currencies", headers={"X-Request-ID": request_id})
    assert answer.headers["X-Request-ID"] == request_id
    problem = (await shared_service.get("/nowhere", headers={"X-Request-ID": request_id})).problem(404)
    assert problem["instance"] == request_id


@pytest.mark.parametrize("request_id", ["", "x" * 1000, "two words", "<script>", "id\u00e9", "a;b", '"', "%0d%0a"])
async def test_any_other_is_replaced(shared_service: Service, request_id: str) -> None:
    answer = await shared_service.get("/currencies", headers={"X-Request-ID": request_id})
    assert answer.headers["X-Request-ID"] not in ("", request_id)
    assert answer.headers["X-Request-ID"].isalnum()


# Problems that the server itself makes


@pytest.mark.parametrize("path", ["/nowhere", "//", "/users/2", "/users/2/nothing", "/%00", "/%ff", "/currencies/"])
async def test_an_unknown_address_is_404(shared_service: Service, path: str) -> None:
    (await shared_service.get(path)).problem(404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/currencies", {"GET", "HEAD", "POST"}),
        ("DELETE", "/users", {"POST"}),
        ("GET", "/users", {"POST"}),
        ("PUT", "/users/2/transfers", {"GET", "HEAD", "POST"}),
        ("PATCH", "/accounts/4", {"GET", "HEAD"}),
        ("OPTIONS", "/currencies", {"GET", "HEAD", "POST"}),
        ("PROPFIND", "/currencies", {"GET", "HEAD", "POST"}),
    ],
)
async def test_a_method_that_an_address_does_not_have_is_405(
    shared_service: Service, method: str, path: str, allowed: set[str]
) -> None:
    answer = await shared_service.request(method, path)
    answer.problem(405, "method-not-allowed")
    assert set(answer.headers["Allow"].replace(" ", "").split(",")) == allowed


async def test_a_defect_is_500_and_says_nothing_of_its_cause(service: Service) -> None:
    await ledger.alter(service.database_url, "ALTER TABLE currencies RENAME TO money_kinds")
    answer = await service.get("/currencies")
    answer.problem(500, "internal-error")
    for cause in ("currencies", "relation", "SELECT", "42P01", "psycopg", "Traceback", "aiopg"):
        assert cause not in answer.text
    await ledger.alter(service.database_url, "ALTER TABLE money_kinds RENAME TO currencies")
    (await service.get("/currencies")).ok()


@pytest.mark.parametrize(("method", "path"), [("POST", "/users"), ("POST", "/nowhere"), ("DELETE", "/currencies")])
async def test_an_expectation_that_cannot_be_met_is_417(shared_service: Service, method: str, path: str) -> None:
    sent = {"Expect": "miracles", "X_Request_ID": "abc", "Content_Length": "1"}
    answer = await raw.exchange(shared_service, raw.head(method, path, **FORM, **sent))
    assert answer.problem(417, field="Expect")["instance"] == "abc"
    (await raw.exchange(shared_service, raw.head(method, path, Expect="miracles"))).problem(417)


async def test_a_client_that_waits_for_100_continue_is_answered(service: Service) -> None:
    expecting = FORM | {"Expect": "100-continue"}
    (await service.post("/users", body=FORM_BODY, headers=expecting)).ok(201)
    (await service.post("/nowhere", body=FORM_BODY, headers=expecting)).problem(404)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GARBAGE\r\n\r\n",
        b"BREW /currencies HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /currencies HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
        b"GET /currencies HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 40_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /users HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /users HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=["no request", "no method", "no header", "long header", "long path", "negative length", "two lengths"],
)
async def test_what_is_not_http_is_a_problem_too(shared_service: Service, request_bytes: bytes) -> None:
    answer = await raw.exchange(shared_service, request_bytes)
    assert 400 <= answer.status < 500
    answer.problem(answer.status)
    assert "xxxx" not in answer.text, "nothing of the request comes back"


# Media types


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=utf-8",
        "application/x-www-form-urlencoded;charset=UTF-8",
        'APPLICATION/X-WWW-FORM-URLENCODED; Charset="utf-8"',
    ],
)
async def test_a_form_is_accepted(service: Service, content_type: str) -> None:
    (await users(service, FORM_BODY, content_type)).ok(201)


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"]
)
async def test_json_is_accepted_alike(service: Service, content_type: str) -> None:
    (await users(service, JSON_BODY, content_type)).ok(201)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "multipart/mixed; boundary=x",
        "application/octet-stream",
        "application/xml",
        "application/jsonp",
        "application/problem+json",
        "json",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
        "application/x-www-form-urlencoded; charset=nonsense",
        "application/x-www-form-urlencoded; charset=" + "x" * 5000,
        "application/x-www-form-urlencoded; charset=\u00fc",
        "application/json, text/plain",
        ";;;",
    ],
)
async def test_any_other_type_is_415(shared_service: Service, content_type: str | None) -> None:
    (await users(shared_service, JSON_BODY, content_type)).problem(415, "unsupported-media-type", field="Content-Type")
    assert registered(shared_service) == 0


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/json", "nonsense"])
async def test_without_a_body_the_type_is_not_looked_at(service: Service, content_type: str | None) -> None:
    caller = await service.register()
    headers = {} if content_type is None else {"Content-Type": content_type}
    (await caller.post(f"/users/{caller.id}/accounts/USD", headers=headers)).ok()
    (await users(service, None, content_type)).problem(400, "invalid-request", field="username")


async def test_a_route_without_fields_has_the_same_conventions(service: Service) -> None:
    caller = await service.register()
    before = ledger.counts(service.database_url)
    path = f"/users/{caller.id}/accounts/USD"
    (await caller.post(path, form={"amount": "100"})).problem(400, field="amount")
    (await caller.post(path, document={"currency_id": "EUR"})).problem(400, field="currency_id")
    (await caller.post(path, body=b"x", headers={"Content-Type": "text/plain"})).problem(415)
    (await caller.post(path, body=b"x=" + b"x" * 20_000, headers=FORM)).problem(413)
    assert ledger.counts(service.database_url) == before
    (await caller.post(path, document={})).ok()


# multipart/form-data

MULTIPART = "multipart/form-data; boundary=limit"


def multipart(*parts: tuple[str, str]) -> bytes:
    """Parts of a form: what stands behind `form-data` in the first header, and the rest of headers and text."""
    lines = [f"--limit\r\nContent-Disposition: form-data{head}\r\n{rest}\r\n" for head, rest in parts]
    return "".join([*lines, "--limit--\r\n"]).encode()


NAME, SECRET = ('; name="username"', "\r\nvasya"), ('; name="password"', "\r\ncorrect horse")


@pytest.mark.parametrize(
    ("full_name", "told"),
    [
        ('; name="full_name"', "\r\nВася\nПупкин"),
        ("; name=full_name", "Content-Type: text/plain; charset=UTF-8\r\n\r\nВася\nПупкин"),
        ('; name="full_name"', "Content-Type: text/plain\r\nContent-Transfer-Encoding: 8bit\r\n\r\nВася\nПупкин"),
    ],
)
async def test_text_in_multipart_is_as_in_a_form(service: Service, full_name: str, told: str) -> None:
    body = multipart(NAME, (full_name, told), SECRET)
    assert (await users(service, body, MULTIPART)).ok(201)["full_name"] == "Вася\nПупкин"
    (await Caller(service, 2, "vasya", "correct horse", {}).get("/api/users/me")).ok()


@pytest.mark.parametrize("what", ["transfer", "deposit", "account"])
async def test_every_route_of_forms_takes_multipart(service: Service, what: str) -> None:
    caller = await service.register()
    own = caller.accounts["USD"]
    path, fields, status = {
        "transfer": (f"/users/{caller.id}/transfers", {"from": own, "to": own, "amount": "1", "comment": ""}, 400),
        "deposit": ("/api/balances", {"user_id": caller.id, "value": "1.50", "account_id": ""}, 201),
        "account": (f"/users/{caller.id}/accounts/USD", {}, 200),
    }[what]
    body = multipart(*((f'; name="{name}"', f"\r\n{value}") for name, value in fields.items()))
    answer = await caller.post(path, body=body, headers={"Content-Type": MULTIPART})
    assert answer.status == status, answer.text
    assert "same-account" in answer.text or status < 400


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (('; name="full_name"; filename="me.txt"', "\r\nVasya"), "full_name"),
        (('; name="full_name"; filename=""', "\r\n"), "full_name"),
        (('; name="full_name"', "Content-Type: application/json\r\n\r\n{}"), "full_name"),
        (('; name="full_name"', "Content-Type: text/plain; charset=latin-1\r\n\r\nx"), "full_name"),
        (('; name="full_name"', "Content-Transfer-Encoding: base64\r\n\r\neHg="), "full_name"),
        (('; name="full_name"', "\r\nx\0"), "full_name"),
        (('; name="username"', "\r\nvasya"), "username"),
        (('; name="is_admin"', "\r\n1"), "is_admin"),
        (("", "\r\nx"), None),
        (('; name="full_name"', "Content-Length: 9\r\n\r\nx"), None),
        (('; name="full_name"', "no colon\r\n\r\nx"), None),
        (('; name="full_name"', "X: " + "x" * 5000 + "\r\n\r\nx"), None),
    ],
)
async def test_a_part_that_is_no_text_is_refused(
    shared_service: Service, part: tuple[str, str], field: str | None
) -> None:
    (await users(shared_service, multipart(NAME, SECRET, part), MULTIPART)).problem(400, field=field)
    assert registered(shared_service) == 0


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (multipart(NAME, SECRET)[:-4], MULTIPART),
        (multipart(NAME, SECRET)[:-30], MULTIPART),
        (b"--limit", MULTIPART),
        (FORM_BODY, MULTIPART),
        (multipart(NAME, SECRET), "multipart/form-data"),
        (multipart(NAME, SECRET), "multipart/form-data; boundary="),
        (multipart(NAME, SECRET), "multipart/form-data; boundary=other"),
        (multipart(NAME, SECRET), "multipart/form-data; boundary=\u00fc"),
        (multipart(NAME, SECRET), 'multipart/form-data; boundary="' + "x" * 3000 + '"'),
        (multipart(*[NAME] * 150), MULTIPART),
    ],
)
async def test_what_is_no_multipart_body_is_400(shared_service: Service, body: bytes, content_type: str) -> None:
    (await users(shared_service, body, content_type)).problem(400, "invalid-request")
    assert registered(shared_service) == 0


async def test_a_multipart_body_is_bounded_as_others_are(shared_service: Service) -> None:
    large = multipart(NAME, SECRET, ('; name="full_name"', "\r\n" + "x" * 16_384))
    (await users(shared_service, large, MULTIPART)).problem(413)
    assert registered(shared_service) == 0


# Fields


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"password=correct+horse", "username"),
        (b"username=vasya", "password"),
        (b"username=vasya&password=correct+horse&username=vasya", "username"),
        (b"username=vasya&password=correct+horse&full_name=a&full_name=b", "full_name"),
        (b"username=vasya&password=correct+horse&is_admin=1", "is_admin"),
        (b"username=vasya&password=correct+horse&Username=frosya", "Username"),
        (b"username=vasya&password=correct+horse&id=7", "id"),
        (b"username=&password=correct+horse", "username"),
        (b"username&password=correct+horse", "username"),
        (b"username=vasya&password=", "password"),
        (b"username=vasya&password=correct+horse&full_name=%ff", "full_name"),
        (b"username=vasya&password=correct+horse&full_name=&full_name=", "full_name"),
        (b"username=vasya&password=correct+horse&full_name=\xff", "full_name"),
        (b"username=vasya&password=correct+horse&full_name=%00", "full_name"),
        (b"username=vasya&password=correct+horse&full_name=%ED%A0%80", "full_name"),
        (b"username=vasya&password=correct%ff+horse", "password"),
        (b"username=vasya%ff&password=correct+horse", "username"),
    ],
)
async def test_a_wrong_field_of_a_form_is_named(shared_service: Service, body: bytes, field: str) -> None:
    (await users(shared_service, body, FORM["Content-Type"])).problem(400, "invalid-request", field=field)
    assert registered(shared_service) == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"password": "correct horse"}', "username"),
        (b'{"username": "vasya", "username": "vasya", "password": "correct horse"}', "username"),
        (b'{"username": "vasya", "password": "correct horse", "is_admin": true}', "is_admin"),
        (b'{"username": null, "password": "correct horse"}', "username"),
        (b'{"username": ["vasya"], "password": "correct horse"}', "username"),
        (b'{"username": {"a": "b"}, "password": "correct horse"}', "username"),
        (b'{"username": true, "password": "correct horse"}', "username"),
        (b'{"username": 12345678, "password": "correct horse"}', "username"),
        (b'{"username": "vasya", "password": 12345678}', "password"),
        (b'{"username": "vasya", "password": "correct horse", "full_name": NaN}', "full_name"),
        (b'{"username": "vasya", "password": "correct horse", "full_name": "\\ud800"}', "full_name"),
        (b'{"username": "vasya", "password": "correct horse", "full_name": "\\u0000"}', "full_name"),
        (b'{"username": "vasya", "password": "correct horse", "full_name": "\xff"}', "full_name"),
        (b'{"username": "vasya\\n", "password": "correct horse"}', "username"),
    ],
)
async def test_a_wrong_field_of_json_is_named(shared_service: Service, body: bytes, field: str) -> None:
    (await users(shared_service, body, JSON["Content-Type"])).problem(400, "invalid-request", field=field)
    assert registered(shared_service) == 0


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b"true",
        b"1",
        b'"text"',
        b"[" * 8_000,
        b'{"username":' * 1_000,
        b'{"a":' + b"[" * 7_000 + b"]" * 7_000 + b"}",
        b"\xef\xbb\xbf" * 2 + JSON_BODY,
        b"\xff\xfe{\x00}\x00",
        b"9" * 16_000,
        b"username=vasya&password=correct+horse",
        JSON_BODY + JSON_BODY,
        b'[["username", "vasya"], ["password", "correct horse"]]',
        b"{'username': 'vasya'}",
        b"\0",
    ],
)
async def test_what_is_no_json_object_is_400(shared_service: Service, body: bytes) -> None:
    (await users(shared_service, body, JSON["Content-Type"])).problem(400, "invalid-request")
    assert registered(shared_service) == 0


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"username=vasya&password=correct+horse&full_name=", FORM["Content-Type"]),
        (b"\xef\xbb\xbf" + FORM_BODY, FORM["Content-Type"]),
        (b'{"username": "vasya", "password": "correct horse", "full_name": ""}', JSON["Content-Type"]),
        (b'{"username": "vasya", "password": "correct horse", "full_name": null}', JSON["Content-Type"]),
        (b"\xef\xbb\xbf" + JSON_BODY, JSON["Content-Type"]),
    ],
)
async def test_what_is_empty_or_null_was_not_sent_and_a_byte_order_mark_is_nothing(
    service: Service, body: bytes, content_type: str
) -> None:
    assert (await users(service, body, content_type)).ok(201)["full_name"] == "Unknown"


async def test_an_empty_parameter_was_not_sent(service: Service) -> None:
    caller = await service.register()
    assert (await caller.get(f"/users/{caller.id}/transfers?from=&to=&sort=&limit=&after=")).ok() == []
    (await caller.get(f"/users/{caller.id}/transfers?limit=&limit=")).problem(400, field="limit")


async def test_an_unknown_fields_name_cannot_swell_the_answer(shared_service: Service) -> None:
    answer = await users(shared_service, b"x" * 15_000 + b"=1", FORM["Content-Type"])
    answer.problem(400)
    assert len(answer.body) < 2_000


async def test_a_thousand_fields_are_400(shared_service: Service) -> None:
    (await users(shared_service, b"&".join([b"a=1"] * 1_000), FORM["Content-Type"])).problem(400)


# Sizes and slowness


def body_of(size: int) -> bytes:
    """A registration of exactly so many bytes, whose full name is what is too long about it."""
    return FORM_BODY + b"&full_name=" + b"x" * (size - len(FORM_BODY) - len(b"&full_name="))


async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1000):
        yield body[start : start + 1000]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_may_have_16_kib(shared_service: Service, chunked: bool) -> None:
    body = body_of(16 * 1024)
    answer = await users(shared_service, in_chunks(body) if chunked else body, FORM["Content-Type"])
    answer.problem(400, field="full_name")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_larger_one_is_413(shared_service: Service, chunked: bool) -> None:
    body = body_of(16 * 1024 + 1)
    answer = await users(shared_service, in_chunks(body) if chunked else body, FORM["Content-Type"])
    answer.problem(413, "payload-too-large")


async def test_an_announced_giant_is_refused_before_it_is_sent(shared_service: Service) -> None:
    answer = await raw.exchange(shared_service, raw.head("POST", "/users", **FORM, Content_Length=str(10**12)))
    answer.problem(413, "payload-too-large")


async def test_a_giant_in_chunks_is_refused_before_its_end(shared_service: Service) -> None:
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    answer = await raw.exchange(
        shared_service, raw.head("POST", "/users", **FORM, Transfer_Encoding="chunked"), chunk, chunk
    )
    answer.problem(413, "payload-too-large")


async def test_a_body_that_does_not_arrive_in_time_is_408(
    shared_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiopypay.forms.BODY_SECONDS", 0.1)
    answer = await raw.exchange(shared_service, raw.head("POST", "/users", **FORM, Content_Length="100"), b"username=")
    answer.problem(408, "request-timeout")
    assert registered(shared_service) == 0


async def test_a_slow_client_keeps_nobody_else_waiting(service: Service) -> None:
    arrived = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield FORM_BODY[:10]
        await arrived.wait()
        yield FORM_BODY[10:]

    waiting = asyncio.create_task(users(service, slow(), FORM["Content-Type"]))
    callers = await asyncio.gather(*(service.register() for _ in range(5)))
    assert len(callers) == 5
    assert not waiting.done()
    arrived.set()
    (await waiting).ok(201)


async def test_a_body_that_breaks_off_registers_nobody(shared_service: Service) -> None:
    with pytest.raises((asyncio.IncompleteReadError, TimeoutError)):
        await raw.exchange(
            shared_service, raw.head("POST", "/users", **FORM, Content_Length="100"), FORM_BODY, seconds=0.2
        )
    assert registered(shared_service) == 0


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"this is not gzip"),
        ("gzip", gzip.compress(FORM_BODY)[:-10]),
        ("deflate", b"\xff\xff\xff\xff"),
        ("br", FORM_BODY),
        ("nonsense", b"\x00\x01"),
    ],
    ids=["no gzip", "cut gzip", "no deflate", "no brotli", "no encoding"],
)
async def test_a_broken_content_encoding_is_the_clients_fault(service: Service, encoding: str, body: bytes) -> None:
    head = raw.head("POST", "/users", **FORM, Content_Encoding=encoding, Content_Length=str(len(body)))
    answer = await raw.exchange(service, head, body)
    assert answer.status in (400, 415)
    answer.problem(answer.status)
    assert registered(service) == 0


async def test_what_unfolds_beyond_16_kib_is_413(shared_service: Service) -> None:
    bomb = gzip.compress(b"full_name=" + b"x" * 50_000_000)[:16_000]
    head = raw.head("POST", "/users", **FORM, Content_Encoding="gzip", Content_Length=str(len(bomb)))
    answer = await raw.exchange(shared_service, head, bomb)
    assert answer.status in (413, 415)
    answer.problem(answer.status)


async def test_the_connection_serves_on_after_a_refusal(service: Service) -> None:
    for _ in range(3):
        (await users(service, b"x" * 20_000, FORM["Content-Type"])).problem(413)
        (await users(service, b"x", "text/plain")).problem(415)
    (await users(service, FORM_BODY, FORM["Content-Type"])).ok(201)


# JSON of answers


async def test_answers_are_json_in_utf_8(service: Service) -> None:
    answer = await users(
        service, json.dumps({"username": "v", "password": PASSWORD, "full_name": "Ü"}).encode(), "application/json"
    )
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.json()["full_name"] == "Ü"


async def test_a_problem_names_its_field_beside_the_members_of_rfc_9457(service: Service) -> None:
    caller: Caller = await service.register()
    problem = (await caller.transfer(4, 5, "ten")).problem(400)
    assert list(problem) == ["type", "title", "status", "detail", "instance", "field"]
