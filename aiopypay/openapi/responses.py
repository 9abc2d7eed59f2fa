"""The answers of an operation: its successes as declared, its problems from their classes."""

import inspect
from collections import defaultdict
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from aiopypay import errors
from aiopypay.answers import LOCATION, Answer, Header, Traits
from aiopypay.errors import Problem
from aiopypay.openapi.examples import example_of
from aiopypay.openapi.schemas import Schema

REQUEST_ID = Header("X-Request-ID", "The id of the request: the client's, if it sent a sane one.")
MODE = Header("Aiopypay-Mode", "Sent while the database is away.", {"type": "string", "const": "stand-in"}, False)
RETRY_AFTER = Header("Retry-After", "In how many seconds to try again.", {"type": "integer", "minimum": 1})
CHALLENGE = Header("WWW-Authenticate", 'Basic realm="aiopypay", charset="UTF-8"')

PROBLEM_SCHEMA: Schema = {
    "type": "object",
    "title": "Problem",
    "description": "Why a request was not answered with success (RFC 9457).",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "description": "Stable, and meant for programs."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "Meant for people."},
        "instance": {"type": "string", "description": "The id of the request."},
        "field": {"type": "string", "description": "The part of the request that is wrong."},
        "index": {"type": "integer", "minimum": 0, "description": "The transfer of a bulk that is wrong, from 0."},
        "error": {"type": "string", "description": "Of the token endpoint: the code of RFC 6749."},
        "order_id": {"type": "string", "format": "uuid", "description": "The order that was refused."},
        "reason": {"type": "string", "description": "Why that order was refused."},
    },
}

# Without the database: what any request meets, what reads meet, what orders meet.
_DATABASE = {errors.DatabaseUnavailable, errors.DatabaseBusy, errors.Overloaded, errors.CommitInDoubt}
_STAND_IN = {errors.NotKnownHere, errors.StandInFenced, errors.DiskHangs}
_ACCEPTANCE = {
    errors.OfflineAmountCap,
    errors.OfflineDebitCap,
    errors.OfflineDiskFloor,
    errors.OfflineHoursCap,
    errors.OfflineOrdersCap,
    errors.OfflineUserOrdersCap,
}
_KEY = {errors.InvalidRequest, errors.IdempotencyKeyReused, errors.OrderRefused}


def responses(traits: Traits, has_path: bool, bodies: dict[Any, Schema], components: dict[str, Schema]) -> Schema:
    """Returns the responses of an operation by status. A status may have several bodies, and problems beside them."""
    found: Schema = {}
    for answer in traits.answers:
        response = found.setdefault(str(answer.status), _success(answer))
        if answer.body is not None:
            content = response.setdefault("content", {})
            schema = _either(content.get(answer.media_type), bodies[answer.body])
            content[answer.media_type] = _content(schema, components)
    by_status: dict[int, list[type[Problem]]] = defaultdict(list)
    for problem in sorted(_problems(traits, has_path), key=lambda problem: (problem.status, problem.slug)):
        by_status[problem.status].append(problem)
    for status, problems in by_status.items():
        failure = _failure(status, problems)
        failure["content"].update(found.get(str(status), {}).get("content", {}))
        found[str(status)] = failure
    return dict(sorted(found.items()))


def _problems(traits: Traits, has_path: bool) -> set[type[Problem]]:
    problems: set[type[Problem]] = {errors.InternalError, *traits.problems}
    if has_path:
        problems.add(errors.NotFound)
    if traits.database or traits.authenticated:
        problems |= _DATABASE | _STAND_IN
    if traits.idempotent:
        problems |= _KEY
    if traits.offline and traits.idempotent:
        problems |= _ACCEPTANCE
    return problems


def _either(before: Schema | None, schema: Schema) -> Schema:
    return schema if before is None else {"anyOf": [before["schema"], schema]}


def _content(schema: Schema, components: dict[str, Schema]) -> Schema:
    # Text of any kind is its own example.
    shown = {"$ref", "anyOf"} & schema.keys() or schema.get("type") in ("object", "array")
    return {"schema": schema, "example": example_of(schema, components)} if shown else {"schema": schema}


def _success(answer: Answer) -> Schema:
    phrase = HTTPStatus(answer.status).phrase
    response: Schema = {"description": phrase, "headers": _headers([REQUEST_ID, MODE, *answer.headers])}
    if answer.links:
        response["links"] = {
            link.operation: {"operationId": link.operation, "parameters": dict(link.parameters)}
            for link in answer.links
        }
    return response


def _failure(status: int, problems: list[type[Problem]]) -> Schema:
    headers = [REQUEST_ID, MODE]
    if any(problem.retry_after_seconds is not None for problem in problems):
        headers.append(RETRY_AFTER)
    if status == 401:
        headers.append(CHALLENGE)
    if problems == [errors.OrderRefused]:
        headers.append(LOCATION)
    schema = {
        "$ref": "#/components/schemas/Problem",
        "properties": {
            "type": {"enum": [_type(problem) for problem in problems]},
            "status": {"const": status},
        },
    }
    examples = {problem.slug: {"summary": problem.title, "value": _example(problem)} for problem in problems}
    return {
        "description": " · ".join(dict.fromkeys(problem.title for problem in problems)),
        "headers": _headers(headers),
        "content": {"application/problem+json": {"schema": schema, "examples": examples}},
    }


def _type(problem: type[Problem]) -> str:
    return f"/problems/{problem.slug}"


def _example(problem: type[Problem]) -> Schema:
    order = {"order_id": "a1954752-4d4d-508e-8828-e52524f6e8d5", "reason": "Insufficient funds: …"}
    return {
        "type": _type(problem),
        "title": problem.title,
        "status": problem.status,
        "detail": (inspect.getdoc(problem) or problem.title).partition("\n")[0],
        "instance": "0d3f8e0a6e0b4b0a9f5c1d2e3f4a5b6c",
        **(order if problem is errors.OrderRefused else {}),
    }


def _headers(headers: Iterable[Header]) -> Schema:
    return {
        header.name: {
            "description": header.description,
            "required": header.required,
            "schema": dict(header.schema),
        }
        for header in headers
    }
