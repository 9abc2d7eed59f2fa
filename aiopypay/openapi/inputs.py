"""JSON schemas of what comes in: forms, queries, paths."""

import dataclasses
import re
from typing import Any

from aiopypay.answers import about_of
from aiopypay.fields import parse_id
from aiopypay.forms import ignores_others
from aiopypay.openapi.schemas import REFERENCE, Schema
from aiopypay.parsers import FieldSchema, schema_of

# What users read of the parts of a path; a name means one thing in the whole service.
_IN_PATHS = {
    "account_id": "The id of an account.",
    "currency_id": "A currency, such as `USD`.",
    "order_id": "The id of an order, as in its receipt.",
    "user_id": "Your own user id.",
    "username": "A user's name; case does not matter.",
}

_GROUP = re.compile(r"\(\?P<(\w+)>")


def form_schemas(form: type) -> tuple[Schema, Schema]:
    """Returns the schemas of a form's body: as a form, and as JSON. Where they differ, so do their titles."""
    fields = _fields(form)
    schema = {
        "type": "object",
        "title": form.__name__,
        "description": about_of(form.__name__).text,
        "required": [name for name, field in fields.items() if not _is_optional(field)],
        "additionalProperties": ignores_others(form),
    }
    as_text = schema | {
        "properties": {name: _member(field, _field_schema(field).text) for name, field in fields.items()}
    }
    as_json = schema | {"properties": {name: _in_json(field) for name, field in fields.items()}}
    return (as_text, as_json) if as_text == as_json else (as_text | {"title": f"{form.__name__}Text"}, as_json)


def item_schemas(form: type) -> dict[str, Schema]:
    """Returns the schemas of the forms that a form's arrays have in JSON, by name."""
    items = [field.metadata["items"] for field in _fields(form).values() if "items" in field.metadata]
    return {item.__name__: form_schemas(item)[1] for item in items}


def query_parameters(form: type) -> list[Schema]:
    """Returns the parameters of a query string."""
    return [
        {
            "name": name,
            "in": "query",
            "description": field.metadata["about"],
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
        parameter = {"name": match[1], "in": "path", "description": _IN_PATHS.get(match[1], "")}
        parameters.append({**parameter, "required": True, "schema": dict(schema)})
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
    item = {"$ref": REFERENCE.format(name=items.__name__)}
    array = {"type": "array", "minItems": 1, "maxItems": field.metadata["items_max"], "items": item}
    return FieldSchema(array, array)


def _is_optional(field: "dataclasses.Field[Any]") -> bool:
    return field.default is not dataclasses.MISSING


def _in_json(field: "dataclasses.Field[Any]") -> Schema:
    """A field that is not sent may also be null."""
    schema = _member(field, _field_schema(field).json)
    if not _is_optional(field):
        return schema
    shown: Schema = {name: schema.pop(name) for name in ("description", "default", "examples") if name in schema}
    return {"anyOf": [*schema.get("anyOf", [schema]), {"type": "null"}], **shown}


def _member(field: "dataclasses.Field[Any]", schema: Any) -> Schema:
    texts = [field.metadata["about"], schema.get("description", "")]
    described = {**_with_default(field, schema), "description": " ".join(filter(None, texts))}
    return _or_empty(described) if _is_optional(field) else described


def _or_empty(schema: Schema) -> Schema:
    """A field that is not sent may also be empty, where it is text at all: for the rest types would be less telling."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [_or_empty(one) for one in schema["anyOf"]]}
    if schema.get("type") != "string":
        return schema
    admitting = {name: value for name, value in schema.items() if name != "minLength"}
    if "pattern" in schema and not re.search(schema["pattern"], ""):
        admitting["pattern"] = f"{schema['pattern']}|^$"
    return admitting


def _with_default(field: "dataclasses.Field[Any]", schema: Any) -> Schema:
    shown = field.default not in (dataclasses.MISSING, None)
    return {**schema, "default": field.default} if shown else dict(schema)


def _end_of_group(pattern: str, start: int) -> int:
    depth = 1
    for position in range(start, len(pattern)):
        depth += {"(": 1, ")": -1}.get(pattern[position], 0)
        if depth == 0:
            return position
    raise ValueError(f"{pattern}: a group does not end")
