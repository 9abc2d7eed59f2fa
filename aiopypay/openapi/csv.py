"""What a CSV of forms looks like."""

import dataclasses
from decimal import Decimal

from aiopypay.forms import fields_of
from aiopypay.openapi.examples import example_of
from aiopypay.openapi.inputs import form_schemas
from aiopypay.openapi.schemas import Schema


def csv_content(form: type) -> Schema:
    """Returns the schema and the example of a body in CSV: a line for each of the forms in the one list of `form`."""
    [items] = [field.metadata["items"] for field in fields_of(form).values() if "items" in field.metadata]
    fields = fields_of(items)
    optional = [name for name, field in fields.items() if field.default is not dataclasses.MISSING]
    described = (
        f"CSV (RFC 4180) in UTF-8. The first line has the names of the columns, in any order: {', '.join(fields)}. "
        f"There may be none for {' and '.join(optional)}; an empty cell there is a field that is not sent. "
        "Rows of empty cells are left out."
    )
    members = form_schemas(items)[0]["properties"]
    example = [_cell(example_of(members[name], {}, name)) for name in fields]
    return {
        "schema": {"type": "string", "description": described},
        "example": f"{','.join(fields)}\r\n{','.join(example)}\r\n",
    }


def _cell(value: str | int | Decimal) -> str:
    return str(value)
