"""How the text of one field becomes a value."""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from aiopypay import fields, money_fields
from aiopypay.parsers import Number, schema_of

ACCEPTED: list[tuple[Callable[[str], Any], str, Any]] = [
    (fields.parse_id, "4", 4),
    (fields.parse_id, "0", 0),
    (fields.parse_id, "007", 7),
    (fields.parse_id, str(2**63 - 1), 2**63 - 1),
    (fields.parse_id, Number("4"), 4),
    (fields.parse_comment, "", ""),
    (fields.parse_comment, "x" * 255, "x" * 255),
    (fields.parse_comment, "Обед 🍲\n", "Обед 🍲\n"),
    (fields.parse_username, "a", "a"),
    (fields.parse_username, "Vasya_1@example.com-x", "Vasya_1@example.com-x"),
    (fields.parse_username, "x" * 64, "x" * 64),
    (fields.parse_username, "...", "..."),
    (fields.parse_username, "mee", "mee"),
    (fields.parse_username, "123", "123"),
    (fields.parse_password, "correct horse: battery", "correct horse: battery"),
    (fields.parse_password, "пароль", "пароль"),
    (fields.parse_password, "x" * 256, "x" * 256),
    (fields.parse_full_name, "Вася Пупкин", "Вася Пупкин"),
    (fields.parse_sort, "asc", "asc"),
    (fields.parse_sort, "dsc", "dsc"),
    (fields.parse_flag, "true", True),
    (fields.parse_flag, "True", True),
    (fields.parse_flag, "TRUE", True),
    (fields.parse_flag, Number("true"), True),
    (fields.parse_flag, "False", False),
    (fields.parse_flag, "FALSE", False),
    (fields.parse_limit, "1", 1),
    (fields.parse_limit, "1000", 1000),
]

REFUSED: list[tuple[Callable[[str], Any], str]] = [
    (fields.parse_id, ""),
    (fields.parse_id, "abc"),
    (fields.parse_id, "-1"),
    (fields.parse_id, "+1"),
    (fields.parse_id, "1.0"),
    (fields.parse_id, "1e3"),
    (fields.parse_id, " 4"),
    (fields.parse_id, "4\n"),
    (fields.parse_id, "٤"),
    (fields.parse_id, "1_0"),
    (fields.parse_id, str(2**63)),
    (fields.parse_id, "9" * 5000),
    (fields.parse_comment, "x" * 256),
    (fields.parse_comment, "nul \0"),
    (fields.parse_comment, "half \ud83d"),
    (fields.parse_comment, "bad \udcff"),
    (fields.parse_comment, Number("12")),
    (fields.parse_username, ""),
    (fields.parse_username, "vasya\n"),
    (fields.parse_username, "va sya"),
    (fields.parse_username, "va\0sya"),
    (fields.parse_username, "va:sya"),
    (fields.parse_username, "вася"),
    (fields.parse_username, "vasya١"),
    (fields.parse_username, "x" * 65),
    (fields.parse_username, "x" * 10_000),
    (fields.parse_username, "va/sya"),
    (fields.parse_username, "me"),
    (fields.parse_username, "ME"),
    (fields.parse_username, "."),
    (fields.parse_username, ".."),
    (fields.parse_username, Number("123")),
    (fields.parse_password, "x" * 257),
    (fields.parse_password, "tab\tbed"),
    (fields.parse_password, "nul\0nul"),
    (fields.parse_password, "half \ud83d half"),
    (fields.parse_full_name, ""),
    (fields.parse_full_name, "x" * 256),
    (fields.parse_full_name, "a\0b"),
    (fields.parse_sort, ""),
    (fields.parse_sort, "desc"),
    (fields.parse_sort, "ASC"),
    (fields.parse_flag, ""),
    (fields.parse_flag, "1"),
    (fields.parse_flag, "tRUE"),
    (fields.parse_flag, "yes"),
    (fields.parse_limit, "0"),
    (fields.parse_limit, "1001"),
    (fields.parse_limit, "-1"),
    (fields.parse_limit, "ten"),
    (fields.parse_limit, ""),
]


@pytest.mark.parametrize("parse", [money_fields.parse_amount, money_fields.parse_value])
@pytest.mark.parametrize("text", ["1", "0.01", "999999999999.99", "1000000000000", "1000000000000.00"])
def test_the_schema_of_an_amount_as_a_string_has_the_same_limit(parse: Callable[[str], Any], text: str) -> None:
    _, as_string = schema_of(parse).json["anyOf"]
    assert parse(text) == Decimal(text)
    assert re.search(as_string["pattern"], text)
    for other in ("0", "0.00", "1000000000000.01", "1000000000001", "1e3", ""):
        assert not re.search(as_string["pattern"], other)
        with pytest.raises(ValueError, match=r"^must "):
            parse(other)


@pytest.mark.parametrize(("parse", "text", "value"), ACCEPTED)
def test_well_formed_text_becomes_a_value(parse: Callable[[str], Any], text: str, value: Any) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(("parse", "text"), REFUSED)
def test_anything_else_is_refused_with_what_it_must_be(parse: Callable[[str], Any], text: str) -> None:
    with pytest.raises(ValueError, match=r"^must "):
        parse(text)
