"""JSON schemas of what comes in (forms, queries, paths) and of what goes out (structs)."""

import dataclasses
import inspect
import re
from collections.abc import Iterable
from typing import Any, get_args, get_origin

import msgspec

from aiopypay.errors import Problem
from aiopypay.fields import parse_id
from aiopypay.forms import ignores_others
from aiopypay.parsers import FieldSchema, schema_of

Schema = dict[str, Any]

REFERENCE = "#/components/schemas/{name}"

_GROUP = re.compile(r"\(\?P<(\w+)>")


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
        {name: _with_numbers(schema) for name, schema in components.items()},
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


def form_schemas(form: type) -> tuple[Schema, Schema]:
    """Returns the schemas of a form's body: as a form, and as JSON."""
    fields = _fields(form)
    schema = {
        "type": "object",
        "title": form.__name__,
        "description": inspect.getdoc(form) or "",
        "required": [name for name, field in fields.items() if not _is_optional(field)],
        "additionalProperties": ignores_others(form),
    }
    as_text = {name: _with_default(field, _field_schema(field).text) for name, field in fields.items()}
    as_json = {name: _with_default(field, _field_schema(field).json) for name, field in fields.items()}
    return schema | {"properties": as_text}, schema | {"properties": as_json}


def query_parameters(form: type) -> list[Schema]:
    """Returns the parameters of a query string."""
    return [
        {
            "name": name,
            "in": "query",
            "required": not _is_optional(field),
            "schema": _with_default(field, schema_of(field.metadata["parse"]).text),
        }
        for name, field in _fields(form).items()
    ]


def path_parameters(pattern: str) -> list[Schema]:
    """Returns the parameters of a path, given as the regular expression with a named group for each."""
    parameters = []
    for match in _GROUP.finditer(pattern):
        expression = pattern[match.end() : _end_of_group(pattern, match.end())]
        schema = (
            schema_of(parse_id).text if expression == "[0-9]+" else {"type": "string", "pattern": f"^(?:{expression})$"}
        )
        parameters.append({"name": match[1], "in": "path", "required": True, "schema": dict(schema)})
    return parameters


def has_fields(form: type | None) -> bool:
    """Tells whether there is anything to send."""
    return form is not None and bool(_fields(form))


def _fields(form: type) -> dict[str, "dataclasses.Field[Any]"]:
    return {field.metadata["name"]: field for field in dataclasses.fields(form)}


def _field_schema(field: "dataclasses.Field[Any]") -> FieldSchema:
    items = field.metadata.get("items")
    if items is None:
        return schema_of(field.metadata["parse"])
    array = {"type": "array", "minItems": 1, "maxItems": field.metadata["items_max"], "items": form_schemas(items)[1]}
    return FieldSchema(array, array)


def _is_optional(field: "dataclasses.Field[Any]") -> bool:
    return field.default is not dataclasses.MISSING


def _with_default(field: "dataclasses.Field[Any]", schema: Any) -> Schema:
    shown = field.default not in (dataclasses.MISSING, None)
    return {**schema, "default": field.default} if shown else dict(schema)


def _with_numbers(schema: Any) -> Any:
    """Money goes out as a number, where msgspec's schemas have text."""
    if isinstance(schema, dict):
        if schema.get("format") == "decimal":
            return {name: value for name, value in schema.items() if name != "format"} | {"type": "number"}
        return {name: _with_numbers(value) for name, value in schema.items()}
    return [_with_numbers(item) for item in schema] if isinstance(schema, list) else schema


def _end_of_group(pattern: str, start: int) -> int:
    depth = 1
    for position in range(start, len(pattern)):
        depth += {"(": 1, ")": -1}.get(pattern[position], 0)
        if depth == 0:
            return position
    raise ValueError(f"{pattern}: a group does not end")
