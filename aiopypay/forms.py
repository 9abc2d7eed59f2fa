"""@form_data and @query_string: a request becomes a dataclass, or a 400 that names the field.

A form is a dataclass whose fields are declared with `form_field`. Values are parsed from their raw text, so a
number in JSON never passes through a float.
"""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Awaitable, Callable
from functools import cache, wraps
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from aiohttp import web

from aiopypay.answers import JSON, add_traits
from aiopypay.errors import InvalidRequest, PayloadTooLarge, RequestTimeout, UnsupportedMediaType
from aiopypay.parsers import Number, Parser

BODY_BYTES_MAX = 16 * 1024
BODY_SECONDS = 10
FORM_TYPE, JSON_TYPE = "application/x-www-form-urlencoded", JSON
_BODY_PROBLEMS = InvalidRequest, RequestTimeout, PayloadTooLarge, UnsupportedMediaType

Form = TypeVar("Form")
Handler = Callable[..., Awaitable[web.StreamResponse]]
Pairs = list[tuple[str, Any]]


def form_field(name: str, parse: Parser, **options: Any) -> Any:
    """Declares a dataclass field that is called `name` in requests; without a default it is required."""
    return dataclasses.field(metadata={"name": name, "parse": parse}, **options)


def form_data(form: type[Form]) -> Callable[[Handler], Handler]:
    """Passes the body, as a `form`, to the handler behind its other arguments.

    Raises InvalidRequest naming the field, UnsupportedMediaType, PayloadTooLarge, RequestTimeout.
    """

    def decorate(handler: Handler) -> Handler:
        @wraps(handler)
        async def read_form(request: web.Request, *args: Any) -> web.StreamResponse:
            return await handler(request, *args, build(form, await _body_pairs(request)))

        return add_traits(read_form, body=form, problems=_BODY_PROBLEMS)

    return decorate


def query_string(form: type[Form]) -> Callable[[Handler], Handler]:
    """Passes the query, as a `form`, to the handler behind its other arguments. Raises InvalidRequest."""

    def decorate(handler: Handler) -> Handler:
        @wraps(handler)
        async def read_query(request: web.Request, *args: Any) -> web.StreamResponse:
            return await handler(request, *args, build(form, _form_pairs(request.rel_url.raw_query_string)))

        return add_traits(read_query, query=form, problems=[InvalidRequest])

    return decorate


def build(form: type[Form], pairs: Pairs) -> Form:
    """Returns the form made of named raw values. Raises InvalidRequest naming a field that is wrong."""
    fields, required = _fields(form)  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, raw in pairs:
        if name not in fields:
            raise InvalidRequest(f"{_shown(name)}: is not a field of this request", field=_shown(name))
        attribute, parse = fields[name]
        if attribute in values:
            raise InvalidRequest(f"{name}: is repeated", field=name)
        values[attribute] = _parsed(name, parse, raw)
    for attribute, name in required:
        if attribute not in values:
            raise InvalidRequest(f"{name}: is missing", field=name)
    return form(**values)


@cache
def _fields(form: type) -> tuple[dict[str, tuple[str, Parser]], list[tuple[str, str]]]:
    """Returns the attribute and the parser of each field by its name in requests; and which fields are required."""
    fields = dataclasses.fields(form)
    return (
        {field.metadata["name"]: (field.name, field.metadata["parse"]) for field in fields},
        [(field.name, field.metadata["name"]) for field in fields if field.default is dataclasses.MISSING],
    )


def _parsed(name: str, parse: Parser, raw: Any) -> Any:
    if not isinstance(raw, str):
        if not isinstance(raw, bool):
            raise InvalidRequest(f"{name}: must be text or a number", field=name)
        raw = Number("true" if raw else "false")
    try:
        return parse(raw)
    except ValueError as error:
        raise InvalidRequest(f"{name}: {error}", field=name) from None


async def _body_pairs(request: web.Request) -> Pairs:
    body = await read_body(request, BODY_BYTES_MAX)
    if not body:
        return []
    if request.headers.get("Content-Type") == FORM_TYPE:
        # As curl and browsers send it: nothing to take apart.
        content_type, charset = FORM_TYPE, "utf-8"
    else:
        content_type, charset = request.content_type, (request.charset or "utf-8").lower()
    if content_type not in (FORM_TYPE, JSON_TYPE) or charset not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(f"Content-Type: must be {FORM_TYPE} or {JSON_TYPE}, in UTF-8", field="Content-Type")
    # Bad UTF-8 becomes lone surrogates, which the field's parser refuses under the field's name.
    text = body.decode("utf-8", "surrogateescape")
    return _form_pairs(text) if content_type == FORM_TYPE else _json_pairs(text)


async def read_body(request: web.Request, bytes_max: int) -> bytes:
    """Returns the body. Raises PayloadTooLarge, RequestTimeout, UnsupportedMediaType, InvalidRequest (cut short)."""
    if "Content-Encoding" in request.headers:
        # A compressed body that is cut short is not noticed: an amount of 100 could become 10.
        raise UnsupportedMediaType("Content-Encoding: bodies are taken uncompressed", field="Content-Encoding")
    too_large = PayloadTooLarge(f"The body must be at most {bytes_max} bytes long")
    if (request.content_length or 0) > bytes_max:
        raise too_large
    try:
        # Most bodies are here when the request is: they need no deadline, which costs as much as reading them.
        async with contextlib.nullcontext() if request.content.is_eof() else asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large from None
    except TimeoutError:
        raise RequestTimeout(f"The body did not arrive within {BODY_SECONDS} s") from None
    except web.RequestPayloadError:
        raise InvalidRequest("The body is not what its headers announce") from None
    if len(body) > bytes_max:
        raise too_large
    return body


def _form_pairs(text: str) -> Pairs:
    try:
        return list(parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=100))
    except ValueError:
        raise InvalidRequest("The request has more than 100 fields") from None


class _Object(list[tuple[str, Any]]):
    """The members of a JSON object, repeated names and all."""


def _json_pairs(text: str) -> Pairs:
    try:
        document = json.loads(
            text, object_pairs_hook=_Object, parse_int=Number, parse_float=Number, parse_constant=Number
        )
    except (ValueError, RecursionError):
        raise InvalidRequest("The body is not valid JSON") from None
    if not isinstance(document, _Object):
        raise InvalidRequest("The body must be a JSON object")
    return document


def _shown(name: str) -> str:
    """A client's own field name, cut and made printable before it goes back into an answer."""
    return name[:64].encode("ascii", "backslashreplace").decode()
