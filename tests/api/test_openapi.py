"""GET /openapi.json and GET /docs: the document tells of every route, and is right about what it can show."""

import base64
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints

import msgspec
import pytest
from aiohttp import web
from openapi_schema_validator import OAS31Validator, oas31_format_checker
from openapi_spec_validator import validate

from aiopypay import errors
from aiopypay.answers import described, traits_of
from aiopypay.app import create_app
from aiopypay.forms import form_data, form_field
from aiopypay.openapi.document import document
from aiopypay.parsers import takes
from aiopypay.settings import Settings
from tests.client import Service

Document = dict[str, Any]

FOR_ADMINS = [
    ("/currencies", "post"),
    ("/currencies/{currency_id}", "patch"),
    ("/api/users", "get"),
    ("/api/users/{username}", "get"),
    ("/api/users/{username}", "patch"),
    ("/api/users/{username}", "delete"),
]
METHODS = {"get", "post", "put", "patch", "delete"}
# No database is asked, so none need be there.
ROUTER = create_app(Settings(database_url="postgresql://nobody@127.0.0.1:9/nothing")).router


@pytest.fixture
async def openapi(service: Service) -> Document:
    """The document as it is served, its numbers as JSON's readers have them."""
    answer = await service.get("/openapi.json")
    answer.ok()
    served: Document = msgspec.json.decode(answer.body)
    return served


def operations(openapi: Document) -> Iterator[tuple[str, str, Document]]:
    """Path, method and operation of each."""
    for path, item in openapi["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def media_types(openapi: Document) -> Iterator[tuple[str, Document]]:
    """Every body of the document, with where it stands."""
    for path, method, operation in operations(openapi):
        bodies = {"request": operation.get("requestBody", {}), **operation["responses"]}
        for part, body in bodies.items():
            for media_type, content in body.get("content", {}).items():
                yield f"{method} {path} {part} {media_type}", content


def problem_types(response: Document) -> set[str]:
    """The types of the problems that an answer may be."""
    content = response["content"]["application/problem+json"]
    return {example["value"]["type"] for example in content["examples"].values()}


def mistakes(openapi: Document, schema: Document, value: Any) -> list[str]:
    """What is wrong with a value."""
    rooted = {"components": openapi["components"], **schema}
    validator = OAS31Validator(rooted, format_checker=oas31_format_checker)
    return [error.message for error in validator.iter_errors(value)]


async def test_it_is_valid_openapi_3_1(openapi: Document) -> None:
    assert openapi["openapi"].startswith("3.1.")
    validate(openapi)


async def test_every_route_is_in_the_document_and_no_other(openapi: Document) -> None:
    routes = {
        (route.resource.canonical, route.method.lower())
        for route in ROUTER.routes()
        if route.resource is not None
        and route.method != "HEAD"
        # The files of the page and what leads to it are no part of the API; /api/ is another address of /api.
        and not route.resource.canonical.startswith("/docs/")
        and route.resource.canonical not in ("/", "/api/")
    }
    assert {(path, method) for path, method, _ in operations(openapi)} == routes
    assert {method for _, method in routes} <= METHODS


def test_every_handler_declares_its_answers() -> None:
    assert [route.handler.__name__ for route in ROUTER.routes() if not traits_of(route.handler).answers] == []


def test_no_time_goes_out_without_its_format() -> None:
    bodies = {answer.body for route in ROUTER.routes() for answer in traits_of(route.handler).answers}
    found, seen = list(bodies), set()
    while found:
        body = found.pop()
        found.extend(getattr(body, "__args__", ()))
        if isinstance(body, type) and issubclass(body, msgspec.Struct) and body not in seen:
            seen.add(body)
            hints = get_type_hints(body, include_extras=True)
            assert not [name for name, hint in hints.items() if re.search(r"(?<!\[)datetime\.datetime", str(hint))]
            found.extend(hints.values())
    assert seen


async def test_examples_are_valid(openapi: Document) -> None:
    checked = 0
    for place, content in media_types(openapi):
        examples = [content["example"]] if "example" in content else []
        examples += [example["value"] for example in content.get("examples", {}).values()]
        for example in examples:
            assert mistakes(openapi, content["schema"], example) == [], place
            checked += 1
    for path, method, operation in operations(openapi):
        for parameter in operation["parameters"]:
            if "example" in parameter:
                assert mistakes(openapi, parameter["schema"], parameter["example"]) == [], f"{method} {path}"
                checked += 1
    assert checked > 50


async def test_json_bodies_have_an_example(openapi: Document) -> None:
    for place, content in media_types(openapi):
        if "json" in place:
            assert {"example", "examples"} & content.keys(), place


async def test_links_lead_to_operations_and_their_parameters(openapi: Document) -> None:
    parameters = {
        operation["operationId"]: {parameter["name"] for parameter in operation["parameters"]}
        for _, _, operation in operations(openapi)
    }
    links = [
        link
        for _, _, operation in operations(openapi)
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    ]
    assert links
    for link in links:
        assert link["parameters"].keys() <= parameters[link["operationId"]]


async def test_operations_have_ids_tags_and_texts(openapi: Document) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(openapi)]
    assert len(ids) == len(set(ids))
    tags = {tag["name"] for tag in openapi["tags"] if tag["description"]}
    for path, method, operation in operations(openapi):
        assert operation["summary"], f"{method} {path}"
        assert operation["description"], f"{method} {path}"
        assert set(operation["tags"]) <= tags
        for parameter in operation["parameters"]:
            assert parameter["description"], f"{method} {path} {parameter['name']}"


async def test_bodies_and_their_fields_have_texts(openapi: Document) -> None:
    for name, schema in openapi["components"]["schemas"].items():
        assert schema["description"], name
        for member, of_member in schema["properties"].items():
            assert "$ref" in of_member or of_member["description"], f"{name}.{member}"


async def test_problems_have_texts(openapi: Document) -> None:
    told = [example["value"] for _, content in media_types(openapi) for example in content.get("examples", {}).values()]
    assert len(told) > 100
    assert [problem["type"] for problem in told if problem["detail"] == problem["title"]] == []


async def test_users_read_no_docstring(openapi: Document) -> None:
    docstrings = {inspect.getdoc(route.handler) for route in ROUTER.routes()} | {"A user as registration answers it."}
    told = {operation["description"] for _, _, operation in operations(openapi)}
    told |= {schema["description"] for schema in openapi["components"]["schemas"].values()}
    assert told & docstrings == set()


def references(part: Any) -> Iterator[Document]:
    """Every schema that is a reference."""
    if isinstance(part, dict):
        if "$ref" in part:
            yield part
        for member in part.values():
            yield from references(member)
    elif isinstance(part, list):
        for item in part:
            yield from references(item)


async def test_what_generators_stumble_over_is_not_there(openapi: Document) -> None:
    assert {tuple(reference) for reference in references(openapi)} == {("$ref",)}
    schemas = openapi["components"]["schemas"]
    titles = [schema["title"] for schema in schemas.values()]
    assert len(titles) == len(set(titles))
    for schema in schemas.values():
        assert {"type": "null"} not in schema["properties"].values()
    assert schemas["PersonBody"]["properties"]["password"]["anyOf"] == [{"type": "string"}, {"type": "null"}]
    refusals = openapi["paths"]["/api/balances"]["post"]["responses"]["402"]["content"]
    assert len({content["schema"]["$ref"] for content in refusals.values()}) == 1


async def test_an_optional_member_may_be_null(openapi: Document) -> None:
    transfer = {"from": 4, "to": 7, "amount": 1}
    form = {"$ref": "#/components/schemas/TransferForm"}
    assert mistakes(openapi, form, transfer | {"comment": None}) == []
    assert mistakes(openapi, form, transfer | {"to": None}) != []


async def test_what_a_transfer_takes_and_answers(openapi: Document) -> None:
    operation = openapi["paths"]["/users/{user_id}/transfers"]["post"]
    content = operation["requestBody"]["content"]
    assert content.keys() == {"application/json", "application/x-www-form-urlencoded"}
    assert {"200", "202", "400", "401", "402", "403", "404", "409", "413", "415", "422", "500", "503"} <= (
        operation["responses"].keys()
    )
    assert {"basic": []} in operation["security"]
    assert "Idempotency-Key" in [parameter["name"] for parameter in operation["parameters"]]
    assert "Location" in operation["responses"]["202"]["headers"]
    assert "Location" in operation["responses"]["409"]["headers"]
    assert "Retry-After" in operation["responses"]["503"]["headers"]
    refusals = operation["responses"]["402"]["content"]["application/problem+json"]
    assert refusals["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert problem_types(operation["responses"]["402"]) == {f"/problems/{errors.InsufficientFunds.slug}"}


async def test_what_a_bulk_takes_and_answers(openapi: Document) -> None:
    operation = openapi["paths"]["/users/{user_id}/transfers/bulk"]["post"]
    content = operation["requestBody"]["content"]
    assert content.keys() == {"application/json", "text/csv"}
    assert content["text/csv"]["example"].splitlines()[0] == "from,to,amount,comment,key"
    bulk = openapi["components"]["schemas"]["BulkForm"]
    assert bulk["required"] == ["mode", "transfers"]
    transfers = bulk["properties"]["transfers"]
    assert (transfers["minItems"], transfers["maxItems"]) == (1, 1000)
    assert transfers["items"] == {"$ref": "#/components/schemas/BulkTransferForm"}
    assert openapi["components"]["schemas"]["BulkTransferForm"]["required"] == ["from", "to", "amount"]
    assert [parameter["name"] for parameter in operation["parameters"]] == [
        "user_id",
        "mode",
        "Idempotency-Key",
        "X-Request-ID",
    ]
    results = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert results["items"]["anyOf"] == [
        {"$ref": f"#/components/schemas/{name}"} for name in ("PendingBody", "ReceiptBody", "Problem")
    ]


async def test_what_a_deposit_answers_with_and_without_the_database(openapi: Document) -> None:
    answers = openapi["paths"]["/api/balances"]["post"]["responses"]
    booked, accepted = answers["201"]["content"]["application/json"]["schema"]["anyOf"]
    assert booked == {"$ref": "#/components/schemas/BalanceBody"}
    assert accepted == {"$ref": "#/components/schemas/OfflineBalanceBody"}
    assert "Location" in answers["201"]["headers"]
    assert answers["402"]["content"].keys() == {"application/json", "application/problem+json"}
    assert answers["402"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/RefusedBalanceBody"
    }


@pytest.mark.parametrize(
    ("value", "taken"),
    [(420, True), ("-12312.17", True), (-1, True), (0, False), ("-0.00", False), ("+1", False), ("NaN", False)],
)
async def test_a_value_is_an_amount_with_a_sign(openapi: Document, value: Any, taken: bool) -> None:
    deposit = {"user_id": 2, "value": value}
    assert (mistakes(openapi, {"$ref": "#/components/schemas/BalanceForm"}, deposit) == []) is taken


async def test_basic_and_bearer_open_every_route_that_asks_who_it_is(openapi: Document) -> None:
    assert openapi["components"]["securitySchemes"]["basic"]["scheme"] == "basic"
    token_url = openapi["components"]["securitySchemes"]["token"]["flows"]["password"]["tokenUrl"]
    assert "post" in openapi["paths"][token_url]
    for path, method, operation in operations(openapi):
        if "401" in operation["responses"] and path != token_url:
            assert operation["security"] == [{"basic": []}, {"token": []}], f"{method} {path}"


async def test_what_is_for_admins_and_what_is_throttled(openapi: Document) -> None:
    for path, method in FOR_ADMINS:
        assert "/problems/forbidden" in problem_types(openapi["paths"][path][method]["responses"]["403"]), path
    throttled = {"/users": "post", "/api/auth/register": "post", "/api/auth/token": "post", "/api/users/me": "patch"}
    for path, method in throttled.items():
        assert "Retry-After" in openapi["paths"][path][method]["responses"]["429"]["headers"], f"{method} {path}"


@pytest.mark.parametrize(
    ("amount", "taken"),
    [
        (10, True),
        ("10.50", True),
        (0, False),
        (-1, False),
        ("0.00", False),
        ("1.", False),
        ("1e2", False),
        (None, False),
    ],
)
async def test_an_amount_is_a_number_or_its_digits(openapi: Document, amount: Any, taken: bool) -> None:
    transfer = {"from": 4, "to": 7, "amount": amount}
    assert (mistakes(openapi, {"$ref": "#/components/schemas/TransferForm"}, transfer) == []) is taken


async def test_public_routes_ask_for_no_credentials(openapi: Document) -> None:
    public = {(path, method) for path, method, operation in operations(openapi) if operation["security"] == []}
    assert {("/currencies", "get"), ("/users", "post"), ("/health", "get"), ("/docs", "get")} <= public
    assert ("/users/{user_id}/transfers", "get") not in public


def test_a_field_without_a_schema_is_named() -> None:
    def parse_colour(text: str) -> str:
        return text

    @dataclass
    class ColourForm:
        colour: str = form_field("colour", parse_colour)

    @described("Paint", "Paints.")
    @form_data(ColourForm)
    async def post_colour(request: web.Request, form: ColourForm) -> web.Response:
        """Paints."""
        raise NotImplementedError

    app = web.Application()
    app.router.add_post("/colours", post_colour)
    with pytest.raises(LookupError, match="parse_colour"):
        document(app.router)
    takes({"type": "string"})(parse_colour)
    assert document(app.router)["paths"]["/colours"]["post"]["operationId"] == "post_colour"


async def test_the_page_loads_nothing_from_elsewhere(service: Service) -> None:
    page = await service.get("/docs")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    page.has_common_headers()
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|style=", page.text)
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert sources
    for source in sources:
        file = await service.get(f"/{source}")
        assert file.status == 200, source
        file.has_common_headers()


@pytest.mark.parametrize("path", ["/docs/", "/docs/start.js.map", "/docs/..%2fpage%2findex.html", "/docs/LICENSE"])
async def test_nothing_but_the_page_is_served(service: Service, path: str) -> None:
    (await service.get(path)).problem(404)


async def test_the_document_is_the_same_for_everybody(service: Service) -> None:
    nonsense = "Basic " + base64.b64encode(b"nobody:nothing").decode()
    anonymous = await service.get("/openapi.json")
    assert (await service.get("/openapi.json", authorization=nonsense)).body == anonymous.body


def test_ready_names_whatever_refuses_all_orders(openapi: Document) -> None:
    ready = openapi["paths"]["/health/ready"]["get"]["responses"]["503"]["content"]["application/problem+json"]
    pay = openapi["paths"]["/users/{user_id}/transfers"]["post"]["responses"]["503"]["content"]
    of_one_order = {f"offline-{part}-cap" for part in ("amount", "debit", "user-orders")}
    caps = {name for name in pay["application/problem+json"]["examples"] if name.startswith("offline-")} - of_one_order
    assert len(caps) > 1
    assert caps <= set(ready["examples"])
