"""The document: one operation for each route, in the order of the routes."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from aiopypay import __version__
from aiopypay.answers import CSV, FORM, JSON, Traits, traits_of
from aiopypay.openapi.csv import csv_content
from aiopypay.openapi.examples import example_of
from aiopypay.openapi.responses import PROBLEM_SCHEMA, responses
from aiopypay.openapi.schemas import REFERENCE, Schema, body_schemas, form_schemas, has_fields, path_parameters
from aiopypay.openapi.schemas import query_parameters as query

TOKEN_PATH = "/api/auth/token"
DESCRIPTION = """\
Users, accounts and transfers with commission. While its database is down the service keeps taking payments, refuses
those that are not covered, and books each accepted one exactly once when the database is back.

Writes take forms and JSON alike. Amounts are decimals in the major unit of the currency. In requests JSON strings of
them are taken, too; with the header `Prefer: money=string` those in answers are strings of the same digits. A problem
is `application/problem+json`; its `type` is stable. So is what is refused on any route: 400 (not HTTP), 408 (a
request that does not come in time; the connection is closed), 413 (too large), 417 (an `Expect` that cannot be met),
431 (request line and headers over 32 KiB), and 403 (`/problems/cross-site`: a page of another site asked for something
other than to read).
"""
_REQUEST_ID: Schema = {
    "name": "X-Request-ID",
    "in": "header",
    "description": "Comes back in the answer, where it is 1 to 128 of the characters A-Z a-z 0-9 . _ : -",
    "schema": {"type": "string"},
}
_IDEMPOTENCY_KEY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key with the same content is the same order, for good.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
_KEYED = "The same request with the same key is answered as the first one was, for good."


def document(router: web.UrlDispatcher) -> Schema:
    """Returns the OpenAPI document of all routes."""
    routes = [route for route in router.routes() if route.method != "HEAD"]
    bodies, components = body_schemas(
        answer.body for route in routes for answer in traits_of(route.handler).answers if answer.body is not None
    )
    components["Problem"] = PROBLEM_SCHEMA
    paths: dict[str, Schema] = {}
    tags: dict[str, str] = {}
    schemes = _security_schemes({route.resource.canonical for route in routes if route.resource})
    for route in routes:
        assert route.resource is not None  # noqa: S101 - only system routes have none
        tag, description = _tag(route.handler)
        tags[tag] = description
        operation = _operation(route, bodies, components)
        if traits_of(route.handler).authenticated:
            operation["security"] = [{name: []} for name in schemes]
        paths.setdefault(route.resource.canonical, {})[route.method.lower()] = {"tags": [tag], **operation}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "aiopypay",
            "version": __version__,
            "description": DESCRIPTION,
            "license": {"name": "BSD-3-Clause", "identifier": "BSD-3-Clause"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": description} for name, description in tags.items()],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": schemes},
    }


def encoded(openapi: Schema) -> bytes:
    """Returns the document as JSON. Amounts in examples are exact numbers, decimals and all."""
    return msgspec.json.Encoder(decimal_format="number").encode(openapi)


def _operation(route: web.AbstractRoute, bodies: dict[Any, Schema], components: dict[str, Schema]) -> Schema:
    handler = route.handler
    traits = traits_of(handler)
    assert route.resource is not None  # noqa: S101 - the caller has looked
    pattern = route.resource.get_info().get("pattern")
    path = path_parameters(pattern.pattern) if pattern else []
    summary, _, rest = (inspect.getdoc(handler) or "").partition("\n")
    operation: Schema = {
        "operationId": handler.__name__,
        "summary": summary,
        "parameters": _parameters(traits, path, components),
        "responses": responses(traits, bool(path), bodies, components),
    }
    if rest.strip():
        operation["description"] = rest.strip()
    if has_fields(traits.body):
        operation["requestBody"] = _request_body(traits, components)
    return operation


def _parameters(traits: Traits, path: list[Schema], components: dict[str, Schema]) -> list[Schema]:
    parameters = path + (query(traits.query) if traits.query else [])
    for parameter in path:
        parameter["example"] = example_of(parameter["schema"], components, parameter["name"])
    if traits.idempotent:
        parameters.append(_IDEMPOTENCY_KEY)
    if traits.keyed:
        parameters.append({**_IDEMPOTENCY_KEY, "description": _KEYED})
    return [*parameters, _REQUEST_ID]


def _request_body(traits: Traits, components: dict[str, Schema]) -> Schema:
    form = traits.body
    assert form is not None  # noqa: S101 - the caller has looked
    as_text, as_json = form_schemas(form)
    schemas = {JSON: as_json, FORM: as_text}
    content: dict[str, Schema] = {}
    for media_type in traits.body_types:
        if media_type == CSV:
            content[CSV] = csv_content(form)
            continue
        schema = schemas[media_type]
        name = form.__name__ if schema == as_json else f"{form.__name__}Text"
        components[name] = schema
        example = _request_example(schema, components)
        content[media_type] = {"schema": {"$ref": REFERENCE.format(name=name)}, "example": example}
    return {"required": bool(as_json["required"]), "content": content}


def _request_example(schema: Schema, components: dict[str, Schema]) -> Schema:
    return {name: example_of(member, components, name) for name, member in schema["properties"].items()}


def _tag(handler: Callable[..., Any]) -> tuple[str, str]:
    """Returns the name and the description of the part of the service that the handler's module is."""
    return handler.__module__.rpartition(".")[2], inspect.getdoc(sys.modules[handler.__module__]) or ""


def _security_schemes(paths: set[str]) -> Schema:
    schemes: Schema = {"basic": {"type": "http", "scheme": "basic", "description": "User name and password, in UTF-8."}}
    if TOKEN_PATH in paths:
        schemes["token"] = {
            "type": "oauth2",
            "description": "A bearer token, given for user name and password.",
            "flows": {"password": {"tokenUrl": TOKEN_PATH, "scopes": {}}},
        }
    return schemes
