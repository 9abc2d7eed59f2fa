"""What a parser of a field is, and the JSON schema of what it takes; the OpenAPI document is made of these."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar


class Number(str):
    """The raw text of a JSON number, or of true or false. A field that wants text does not take it."""

    __slots__ = ()


Parser = Callable[[str], Any]
Schema = Mapping[str, Any]
AnyParser = TypeVar("AnyParser", bound=Parser)


@dataclass(frozen=True, slots=True)
class FieldSchema:
    """What a field takes: `text` in forms, queries and paths, `json` as a member of a JSON document."""

    text: Schema
    json: Schema


_SCHEMAS: dict[Parser, FieldSchema] = {}


def takes(schema: Schema, *, digits: str | None = None, json: Schema | None = None) -> Callable[[AnyParser], AnyParser]:
    """Declares what a parser takes. A number or a flag may come as a JSON string too, which matches `digits`.

    `json` is for a member of a JSON document that is something else again.
    """
    if digits is not None:
        json = {"anyOf": [schema, {"type": "string", "pattern": digits}]}

    def declare(parse: AnyParser) -> AnyParser:
        _SCHEMAS[parse] = FieldSchema(schema, schema if json is None else json)
        return parse

    return declare


def schema_of(parse: Parser) -> FieldSchema:
    """Returns what was declared with @takes. Raises LookupError where nothing was."""
    if parse not in _SCHEMAS:
        raise LookupError(f"{getattr(parse, '__qualname__', parse)} has no schema: declare what it takes with @takes")
    return _SCHEMAS[parse]


def shown(name: str) -> str:
    """A client's own field name, cut and made printable before it goes back into an answer."""
    return "".join(
        character if character.isprintable() else character.encode("ascii", "backslashreplace").decode()
        for character in name[:64]
    )
