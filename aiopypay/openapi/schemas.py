"""JSON schemas of what goes out."""

from collections.abc import Iterable
from typing import Any, get_args, get_origin

import msgspec

from aiopypay.answers import about_of
from aiopypay.errors import Problem

Schema = dict[str, Any]

REFERENCE = "#/components/schemas/{name}"


def body_schemas(types: Iterable[Any]) -> tuple[dict[Any, Schema], dict[str, Schema]]:
    """Returns the schema of each type, and the schemas of the structs that they refer to, by name.

    Bytes are an answer that is not JSON, about which a schema says nothing.
    """
    wanted = list(dict.fromkeys(types))
    distinct = list(dict.fromkeys(part for type_ in wanted for part in _parts(type_)))
    schemas, components = msgspec.json.schema_components(distinct, ref_template=REFERENCE)
    known = dict(zip(distinct, map(_with_numbers, schemas), strict=True)) | {
        bytes: {},
        Problem: {"$ref": REFERENCE.format(name="Problem")},
    }
    return (
        {
            type_: known[type_] if type_ in known else _array_of([known[one] for one in _options(type_)])
            for type_ in wanted
        },
        {name: _with_texts(name, _with_numbers(schema)) for name, schema in components.items()},
    )


def _parts(type_: Any) -> list[Any]:
    """Returns the types of which msgspec is to make schemas."""
    return [one for one in _options(type_) or [type_] if one not in (bytes, Problem)]


def _options(type_: Any) -> tuple[Any, ...]:
    """Returns what the items of an array may be, where that is one of several; msgspec cannot tell such apart."""
    (item,) = get_args(type_) if get_origin(type_) is list else (None,)
    return get_args(item)


def _array_of(schemas: list[Schema]) -> Schema:
    return {"type": "array", "items": {"anyOf": schemas}}


def _with_texts(name: str, schema: Schema) -> Schema:
    """What is written for users, in place of the docstring that msgspec takes."""
    about = about_of(name)
    members = {
        # Beside a reference some generators take nothing.
        member: of_member if "$ref" in of_member else {**of_member, "description": about.fields.get(member, "")}
        for member, of_member in schema.get("properties", {}).items()
    }
    return {**schema, "description": about.text, "properties": members}


def _with_numbers(schema: Any) -> Any:
    """Money goes out as a number, where msgspec's schemas have text."""
    if isinstance(schema, dict):
        if schema.get("format") == "decimal":
            return {name: value for name, value in schema.items() if name != "format"} | {"type": "number"}
        return {name: _with_numbers(value) for name, value in schema.items()}
    return [_with_numbers(item) for item in schema] if isinstance(schema, list) else schema
