"""The document: one operation for each route, in the order of the routes."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from aiohttp import web

from aiopypay import __version__
from aiopypay.answers import CSV, FORM, JSON, Traits, traits_of
from aiopypay.openapi.csv import csv_content
from aiopypay.openapi.examples import example_of
from aiopypay.openapi.inputs import form_schemas, has_fields, item_schemas, path_parameters
from aiopypay.openapi.inputs import query_parameters as query
from aiopypay.openapi.responses import PROBLEM_SCHEMA, responses
from aiopypay.openapi.schemas import REFERENCE, Schema, body_schemas
from aiopypay.openapi.texts import DESCRIPTION, TAGS

TOKEN_PATH = "/api/auth/token"
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
    routes = list(operations_of(router))
    bodies, components = body_schemas(
        answer.body for route in routes for answer in traits_of(route.handler).answers if answer.body is not None
    )
    components["Problem"] = PROBLEM_SCHEMA
    paths: dict[str, Schema] = {}
    tags: dict[str, str] = {}
    schemes = _security_schemes({route.resource.canonical for route in routes if route.resource})
    for route in routes:
        assert route.resource is not None  # noqa: S101 - only system routes have none
        tag = _tag(route.handler)
        tags[tag] = TAGS.get(tag, "")
        operation = _operation(route, bodies, components)
        operation["security"] = [{name: []} for name in schemes] if traits_of(route.handler).authenticated else []
        paths.setdefault(route.resource.canonical, {})[route.method.lower()] = {"tags": [tag], **operation}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "aiopypay",
            "version": __version__,
            "description": DESCRIPTION,
            "contact": {"name": "the aiopypay authors"},
            "license": {"name": "BSD-3-Clause", "identifier": "BSD-3-Clause"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": description} for name, description in tags.items()],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": schemes},
    }


def operations_of(router: web.UrlDispatcher) -> Iterator[web.AbstractRoute]:
    """Yields the routes that are operations of the API, each under one of its addresses.

    One with a slash at its end is another address of the one without.
    """
    paths = {resource.canonical for resource in router.resources()}
    for route in router.routes():
        assert route.resource is not None  # noqa: S101 - only system routes have none
        path = route.resource.canonical
        is_other_address = path.endswith("/") and path.rstrip("/") in paths
        if route.method != "HEAD" and traits_of(route.handler).documented and not is_other_address:
            yield route


def encoded(openapi: Schema) -> bytes:
    """Returns the document as JSON. Amounts in examples are exact numbers, decimals and all."""
    return msgspec.json.Encoder(decimal_format="number").encode(openapi)


def _operation(route: web.AbstractRoute, bodies: dict[Any, Schema], components: dict[str, Schema]) -> Schema:
    handler = route.handler
    traits = traits_of(handler)
    assert route.resource is not None  # noqa: S101 - the caller has looked
    pattern = route.resource.get_info().get("pattern")
    path = path_parameters(pattern.pattern) if pattern else []
    operation: Schema = {
        "operationId": handler.__name__,
        "summary": traits.summary,
        "description": traits.description,
        "parameters": _parameters(traits, path, components),
        "responses": responses(traits, bool(path), bodies, components),
    }
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
    components.update(item_schemas(form))
    schemas = {JSON: as_json, FORM: as_text}
    content: dict[str, Schema] = {}
    for media_type in traits.body_types:
        if media_type == CSV:
            content[CSV] = csv_content(form)
            continue
        schema = schemas[media_type]
        name = schema["title"]
        components[name] = schema
        example = _request_example(schema, components)
        content[media_type] = {"schema": {"$ref": REFERENCE.format(name=name)}, "example": example}
    return {"required": bool(as_json["required"]), "content": content}


def _request_example(schema: Schema, components: dict[str, Schema]) -> Schema:
    return {name: example_of(member, components, name) for name, member in schema["properties"].items()}


def _tag(handler: Callable[..., Any]) -> str:
    """Returns the name of the part of the service that the handler's module is."""
    return handler.__module__.rpartition(".")[2]


def _security_schemes(paths: set[str]) -> Schema:
    schemes: Schema = {"basic": {"type": "http", "scheme": "basic", "description": "User name and password, in UTF-8."}}
    if TOKEN_PATH in paths:
        schemes["token"] = {
            "type": "oauth2",
            "description": "A bearer token, given for user name and password.",
            "flows": {"password": {"tokenUrl": TOKEN_PATH, "scopes": {}}},
        }
    return schemes
