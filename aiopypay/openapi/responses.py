"""The answers of an operation: its successes as declared, its problems from their classes."""

from collections import defaultdict
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from aiopypay import errors
from aiopypay.answers import LOCATION, Answer, Header, Traits
from aiopypay.errors import Problem
from aiopypay.openapi.examples import example_of
from aiopypay.openapi.schemas import REFERENCE, Schema
from aiopypay.openapi.texts import meaning_of

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
        "title": {"type": "string", "description": "What kind of problem it is, in words."},
        "status": {"type": "integer", "description": "The status of the answer."},
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
        found[str(status)] = _failure(status, problems, found.get(str(status), {}).get("content", {}))
    return dict(sorted(found.items()))


def _problems(traits: Traits, has_path: bool) -> set[type[Problem]]:
    # What is not HTTP is refused on any route.
    problems: set[type[Problem]] = {errors.InternalError, errors.InvalidRequest, *traits.problems}
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


def _failure(status: int, problems: list[type[Problem]], declared: Schema) -> Schema:
    """What is `declared` for this status besides problems has a shape that these have, too: clients look at one."""
    headers = [REQUEST_ID, MODE]
    if any(problem.retry_after_seconds is not None for problem in problems):
        headers.append(RETRY_AFTER)
    if status == 401:
        headers.append(CHALLENGE)
    if problems == [errors.OrderRefused]:
        headers.append(LOCATION)
    schemas = [content["schema"] for content in declared.values()]
    schema = schemas[0] if schemas else {"$ref": REFERENCE.format(name="Problem")}
    examples = {problem.slug: {"summary": problem.title, "value": _example(problem)} for problem in problems}
    return {
        "description": "\n".join(f"- `{_type(problem)}`: {meaning_of(problem)}" for problem in problems),
        "headers": _headers(headers),
        "content": {"application/problem+json": {"schema": schema, "examples": examples}, **declared},
    }


def _type(problem: type[Problem]) -> str:
    return f"/problems/{problem.slug}"


def _example(problem: type[Problem]) -> Schema:
    order = {"order_id": "a1954752-4d4d-508e-8828-e52524f6e8d5", "reason": "Insufficient funds: …"}
    return {
        "type": _type(problem),
        "title": problem.title,
        "status": problem.status,
        "detail": meaning_of(problem),
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
