"""An example for every schema: its own, or the value that its name stands for, or the simplest of its type."""

from decimal import Decimal
from typing import Any

Schema = dict[str, Any]

ORDER_ID = "6f1c2a3e-8d3b-4a57-9b5e-2f6f6a1f0c11"

# A name means one thing in the whole service, though `id` is a text for some.
_BY_NAME: dict[str, list[Any]] = {
    "account_id": [4],
    "amount": [Decimal("89.90")],
    "balance": [Decimal("89.90")],
    "comment": ["External payment"],
    "commission": [Decimal("0.01")],
    "currency_id": ["USD"],
    "decimals": [2],
    "description": ["United States Dollar"],
    "from": [4],
    "from_account_id": [4],
    "full_name": ["Vasily Pupkin"],
    "id": [4, "USD"],
    "order_id": [ORDER_ID],
    "reason": [None],
    "to": [7],
    "to_account_id": [7],
    "user_id": [2],
    "username": ["vasya"],
    "value": [Decimal("420.69")],
}
_BY_TYPE: dict[str, Any] = {
    "array": [],
    "boolean": True,
    "integer": 1,
    "null": None,
    "number": Decimal("1.00"),
    "object": {},
    "string": "text",
}
_TYPES: dict[str, tuple[type, ...]] = {
    "boolean": (bool,),
    "integer": (int,),
    "null": (type(None),),
    "number": (int, Decimal),
    "string": (str,),
}


def example_of(schema: Schema, components: dict[str, Schema], name: str = "") -> Any:
    """Returns a value that the schema allows. `components` are the schemas that it may refer to."""
    given = _given(schema, name)
    if given:
        return given[0]
    if "$ref" in schema:
        return example_of(components[schema["$ref"].rpartition("/")[2]], components, name)
    if "anyOf" in schema:
        return example_of(schema["anyOf"][0], components, name)
    if "properties" in schema:
        return {key: example_of(member, components, key) for key, member in schema["properties"].items()}
    if schema.get("type") == "array":
        return [example_of(schema["items"], components)]
    return _BY_TYPE[schema.get("type", "string")]


def _given(schema: Schema, name: str) -> list[Any]:
    """Returns the schema's own examples or values, or those of the name which are of its type."""
    for key in ("examples", "enum"):
        if key in schema:
            return list(schema[key])
    if "const" in schema:
        return [schema["const"]]
    alternatives = schema.get("anyOf", [schema])
    return [value for value in _BY_NAME.get(name, []) if any(_is_a(value, one) for one in alternatives)]


def _is_a(value: Any, schema: Schema) -> bool:
    return type(value) in _TYPES.get(schema.get("type", ""), ())
