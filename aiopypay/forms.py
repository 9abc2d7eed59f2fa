"""@form_data and @query_string: a request becomes a dataclass, or a 400 that names the field.

A form is a dataclass whose fields are declared with `form_field`. Values are parsed from their raw text, so a
number in JSON never passes through a float. What is no field of it is refused, unless it says IGNORES_OTHERS. An
optional field that comes empty, or in JSON as null, was not sent: so spreadsheets, pages and clients send nothing.
"""

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import cache, wraps
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from aiohttp import web

from aiopypay.answers import FORM, JSON, MULTIPART, add_traits
from aiopypay.errors import InvalidRequest, PayloadTooLarge, RequestTimeout, UnsupportedMediaType
from aiopypay.multipart_fields import text_fields
from aiopypay.parsers import Number, Parser, shown

# How programs of Windows begin a file in UTF-8.
BYTE_ORDER_MARK = "\ufeff"

BODY_BYTES_MAX = 16 * 1024
BODY_SECONDS = 10
FIELDS_MAX = 100
BODY_PROBLEMS = InvalidRequest, RequestTimeout, PayloadTooLarge, UnsupportedMediaType

BODY: web.RequestKey[bytes] = web.RequestKey("body", bytes)

Form = TypeVar("Form")
Handler = Callable[..., Awaitable[web.StreamResponse]]
Pairs = list[tuple[str, Any]]


def form_field(name: str, parse: Parser, about: str = "", *, keeps_empty: bool = False, **options: Any) -> Any:
    """Declares a dataclass field that is called `name` in requests; without a default it is required.

    `about` is what users read of it. With `keeps_empty` empty text is told from a field that was not sent.
    """
    metadata = {"name": name, "parse": parse, "about": about, "keeps_empty": keeps_empty}
    return dataclasses.field(metadata=metadata, **options)


def list_field(name: str, items: type, about: str = "", *, items_max: int) -> Any:
    """Declares a dataclass field that is, in JSON, an array of forms, one at least. They are not looked at yet."""

    def parse(raw: Any) -> list[Any]:
        if not isinstance(raw, list) or isinstance(raw, _Object) or not 1 <= len(raw) <= items_max:
            raise ValueError(f"must be an array of 1 to {items_max}")
        return raw

    metadata = {"name": name, "parse": parse, "about": about, "items": items, "items_max": items_max}
    return dataclasses.field(metadata=metadata)


def form_data(form: type[Form]) -> Callable[[Handler], Handler]:
    """Passes the body, as a `form`, to the handler behind its other arguments.

    Raises InvalidRequest naming the field, UnsupportedMediaType, PayloadTooLarge, RequestTimeout.
    """

    def decorate(handler: Handler) -> Handler:
        @wraps(handler)
        async def read_form(request: web.Request, *args: Any) -> web.StreamResponse:
            return await handler(request, *args, build(form, await _body_pairs(request)))

        return add_traits(read_form, body=form, body_bytes_max=BODY_BYTES_MAX, problems=BODY_PROBLEMS)

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
    fields = fields_of(form)  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, raw in pairs:
        if name not in fields:
            if ignores_others(form):
                continue
            raise InvalidRequest(f"{shown(name)}: is not a field of this request", field=shown(name))
        field = fields[name]
        if field.name in values:
            raise InvalidRequest(f"{name}: is repeated", field=name)
        values[field.name] = _parsed(name, field, raw)
    if len(values) < len(fields):
        for name, field in fields.items():
            if field.name not in values and field.default is dataclasses.MISSING:
                raise InvalidRequest(f"{name}: is missing", field=name)
    return form(**values)


@cache
def fields_of(form: Hashable) -> dict[str, "dataclasses.Field[Any]"]:
    """Returns the fields of a form by the names that they have in requests."""
    return {field.metadata["name"]: field for field in dataclasses.fields(form)}  # type: ignore[arg-type]


def ignores_others(form: type) -> bool:
    """Tells whether a form takes, and does not look at, what is no field of it."""
    return getattr(form, "IGNORES_OTHERS", False)


def is_unsent(field: "dataclasses.Field[Any]", raw: Any) -> bool:
    """Tells whether an optional field came without a value: null, or empty text where that says nothing."""
    if raw is None:
        return field.default is not dataclasses.MISSING
    return raw == "" and field.default is not dataclasses.MISSING and not field.metadata["keeps_empty"]


def _parsed(name: str, field: "dataclasses.Field[Any]", raw: Any) -> Any:
    if not raw and is_unsent(field, raw):
        return field.default
    if isinstance(raw, bool):
        raw = Number("true" if raw else "false")
    if not isinstance(raw, str) and "items" not in field.metadata:
        raise InvalidRequest(f"{name}: must be text or a number", field=name)
    try:
        return field.metadata["parse"](raw)
    except ValueError as error:
        raise InvalidRequest(f"{name}: {error}", field=name) from None


async def _body_pairs(request: web.Request) -> Pairs:
    # As curl and browsers send a form, there is nothing to take apart.
    if request.headers.get("Content-Type") != FORM and request.content_type == MULTIPART:
        return text_fields(await read_body(request, BODY_BYTES_MAX), request.headers["Content-Type"], FIELDS_MAX)
    text = await body_text(request, BODY_BYTES_MAX, (FORM, JSON))
    is_form = request.headers.get("Content-Type") == FORM or request.content_type != JSON
    return _form_pairs(text.removeprefix(BYTE_ORDER_MARK)) if is_form else json_pairs(text)


async def body_text(request: web.Request, bytes_max: int, media_types: Sequence[str]) -> str:
    """Returns the body, which has one of the media types; without a body the type is not looked at.

    Raises what `read_body` does.
    """
    body = await read_body(request, bytes_max)
    if body and request.headers.get("Content-Type") not in media_types:
        charset = (request.charset or "utf-8").lower()
        if request.content_type not in media_types or charset not in ("utf-8", "utf8", "us-ascii"):
            told = f"Content-Type: must be {' or '.join(media_types)}, in UTF-8"
            raise UnsupportedMediaType(told, field="Content-Type")
    # Bad UTF-8 becomes lone surrogates, which the field's parser refuses under the field's name.
    return body.decode("utf-8", "surrogateescape")


async def read_body(request: web.Request, bytes_max: int) -> bytes:
    """Returns the body, however often it is asked for.

    Raises PayloadTooLarge, RequestTimeout, UnsupportedMediaType, InvalidRequest (cut short).
    """
    if BODY not in request:
        request[BODY] = await _read_body(request, bytes_max)
    return request[BODY]


async def _read_body(request: web.Request, bytes_max: int) -> bytes:
    if "Content-Encoding" in request.headers:
        # A compressed body that is cut short is not noticed: an amount of 100 could become 10.
        raise UnsupportedMediaType("Content-Encoding: bodies are taken uncompressed", field="Content-Encoding")
    if (request.content_length or 0) > bytes_max:
        raise _too_large(bytes_max)
    try:
        # Most bodies are here when the request is. Waiting for one costs several times as much.
        body = request.content.read_nowait() if request.content.is_eof() else await _arriving(request, bytes_max)
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(bytes_max) from None
    except TimeoutError:
        raise RequestTimeout(f"The body did not arrive within {BODY_SECONDS} s") from None
    except (web.RequestPayloadError, ConnectionError):
        raise InvalidRequest("The body is not what its headers announce") from None
    if len(body) > bytes_max:
        raise _too_large(bytes_max)
    return body


async def _arriving(request: web.Request, bytes_max: int) -> bytes:
    if bytes_max > request.client_max_size:
        # The same request, with a limit of its own.
        request = request.clone(client_max_size=bytes_max)
    async with asyncio.timeout(BODY_SECONDS):
        return await request.read()


def _too_large(bytes_max: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body must be at most {bytes_max} bytes long")


def _form_pairs(text: str) -> Pairs:
    try:
        return list(parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=FIELDS_MAX))
    except ValueError:
        raise InvalidRequest(f"The request has more than {FIELDS_MAX} fields") from None


class _Object(list[tuple[str, Any]]):
    """The members of a JSON object, repeated names and all."""


def json_pairs(text: str) -> Pairs:
    """Returns the members of a JSON object; of no text, none. Raises InvalidRequest."""
    text = text.removeprefix(BYTE_ORDER_MARK)
    if not text:
        return []
    try:
        document = json.loads(
            text, object_pairs_hook=_Object, parse_int=Number, parse_float=Number, parse_constant=Number
        )
    except (ValueError, RecursionError):
        raise InvalidRequest("The body is not valid JSON") from None
    if not isinstance(document, _Object):
        raise InvalidRequest("The body must be a JSON object")
    return document


def members(value: Any) -> Pairs:
    """Returns the members of an object within a JSON document. Raises InvalidRequest for anything else."""
    if not isinstance(value, _Object):
        raise InvalidRequest("must be a JSON object")
    return value
