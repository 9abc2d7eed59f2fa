"""A request's named values become a form, or an error that names the field."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from aiopypay.errors import InvalidRequest
from aiopypay.fields import parse_comment, parse_id
from aiopypay.forms import build, form_field
from aiopypay.money_fields import parse_amount
from aiopypay.parsers import Number


@dataclass(frozen=True, slots=True)
class Payment:
    """A form like those of the routes."""

    account_id: int = form_field("from", parse_id)
    amount: Decimal = form_field("amount", parse_amount)
    comment: str | None = form_field("comment", parse_comment, keeps_empty=True, default=None)
    reference: int | None = form_field("reference", parse_id, default=None)


def test_fields_may_come_in_any_order() -> None:
    form = build(Payment, [("comment", "rent"), ("amount", "1.50"), ("from", "4")])
    assert form == Payment(4, Decimal("1.50"), "rent")


def test_numbers_are_parsed_from_their_own_text() -> None:
    form = build(Payment, [("amount", Number("0.10")), ("from", Number("4"))])
    assert str(form.amount) == "0.10"


def test_an_optional_field_may_be_left_out() -> None:
    assert build(Payment, [("from", "4"), ("amount", "1")]).comment is None


@pytest.mark.parametrize("raw", ["", None])
def test_an_optional_field_that_is_empty_or_null_was_not_sent(raw: str | None) -> None:
    assert build(Payment, [("from", "4"), ("amount", "1"), ("reference", raw)]) == Payment(4, Decimal(1))


def test_an_empty_one_is_told_apart_where_it_is_to_be() -> None:
    assert build(Payment, [("from", "4"), ("amount", "1"), ("comment", "")]).comment == ""
    assert build(Payment, [("from", "4"), ("amount", "1"), ("comment", None)]).comment is None


@pytest.mark.parametrize(
    ("pairs", "field", "says"),
    [
        ([("from", "4")], "amount", "missing"),
        ([], "from", "missing"),
        ([("from", "4"), ("from", "5"), ("amount", "1")], "from", "repeated"),
        ([("from", "4"), ("from", "4"), ("amount", "1")], "from", "repeated"),
        ([("from", "4"), ("amount", "1"), ("tip", "1")], "tip", "not a field"),
        ([("from", "4"), ("amount", "1"), ("account_id", "1")], "account_id", "not a field"),
        ([("from", "four"), ("amount", "1")], "from", "digits"),
        ([("from", "4"), ("amount", True)], "amount", "must be"),
        ([("from", "4"), ("amount", None)], "amount", "must be"),
        ([("from", "4"), ("amount", ["1"])], "amount", "must be"),
        ([("from", {"id": 4}), ("amount", "1")], "from", "must be"),
        ([("from", ""), ("amount", "1")], "from", "must be"),
        ([("from", "4"), ("amount", "1"), ("reference", None), ("reference", "")], "reference", "repeated"),
        ([("from", "4"), ("amount", "1"), ("reference", "")] * 2, "from", "repeated"),
        ([("from", "4"), ("amount", "1"), ("reference", [])], "reference", "must be"),
    ],
)
def test_a_wrong_field_is_named(pairs: list[tuple[str, Any]], field: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as problem:
        build(Payment, pairs)
    assert problem.value.field == field
    assert problem.value.detail.startswith(f"{field}: ")
    assert says in problem.value.detail


def test_an_unknown_fields_name_comes_back_cut_and_printable() -> None:
    with pytest.raises(InvalidRequest) as problem:
        build(Payment, [("\udcff\n" + "x" * 10_000, "1")])
    assert problem.value.field is not None
    assert problem.value.field.isascii()
    assert len(problem.value.field) < 400
