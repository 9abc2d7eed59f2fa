"""Amounts: what is one, how it is rounded, how it is written."""

from decimal import Decimal, Inexact

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiopypay import money

AMOUNTS = st.decimals(min_value=Decimal("0.01"), max_value=10**12, places=2)

MALFORMED = [
    "",
    " ",
    "-1",
    "+1",
    "0",
    "0.00",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "Infinity",
    "1e2",
    "1E2",
    "1e-2",
    "0x10",
    "0b1",
    "1_000",
    "1,5",
    "1.000,5",
    "1.",
    ".5",
    ".",
    "1.2.3",
    "١٠",
    "1٠",
    "1۰.5",
    "½",
    "²",
    " 1",
    "1 ",
    "1\n",
    "\n1",
    "1\0",
    "1 000",
    "1\u00a0000",
    "$1",
    "1USD",
    "ten",
    "null",
    "true",
    "1" + "0" * 30,
    "1000000000000.01",
    "1000000000001",
    "9" * 5000,
    "0." + "0" * 5000 + "1",
]


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("10", Decimal(10)),
        ("10.5", Decimal("10.5")),
        ("10.50", Decimal("10.50")),
        ("0.01", Decimal("0.01")),
        ("007", Decimal(7)),
        ("1000000000000", Decimal(10**12)),
        ("1000000000000.00", Decimal(10**12)),
        ("999999999999.99", Decimal("999999999999.99")),
    ],
)
def test_an_amount_is_ascii_digits_with_an_optional_point_between_digits(text: str, amount: Decimal) -> None:
    assert money.parse_amount(text) == amount


@pytest.mark.parametrize("text", MALFORMED)
def test_anything_else_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be "):
        money.parse_amount(text)


@given(st.text(max_size=20))
def test_whatever_is_accepted_is_above_zero_and_within_the_limit(text: str) -> None:
    try:
        amount = money.parse_amount(text)
    except ValueError:
        return
    assert 0 < amount <= 10**12
    assert text.isascii()
    assert set(text) <= set("0123456789.")


@given(AMOUNTS)
def test_an_amount_survives_being_written_and_read(amount: Decimal) -> None:
    assert money.parse_amount(str(money.in_decimals(amount, 2))) == amount


def test_decimals_are_counted_as_written() -> None:
    assert [money.decimals_of(Decimal(text)) for text in ("10", "10.5", "10.50", "10.500", "1E+3")] == [0, 1, 2, 3, 0]


@pytest.mark.parametrize(
    ("amount", "decimals", "written"),
    [("89.9", 2, "89.90"), ("100", 2, "100.00"), ("0", 2, "0.00"), ("1E+12", 2, "1000000000000.00"), ("7", 0, "7")],
)
def test_an_amount_is_written_with_the_decimals_of_its_currency(amount: str, decimals: int, written: str) -> None:
    assert str(money.in_decimals(Decimal(amount), decimals)) == written


def test_writing_never_rounds() -> None:
    with pytest.raises(Inexact):
        money.in_decimals(Decimal("0.001"), 2)


@pytest.mark.parametrize(
    ("amount", "decimals", "rounded"),
    [
        ("0.001", 2, "0.01"),
        ("0.010", 2, "0.01"),
        ("0.0100000000000000000000001", 2, "0.02"),
        ("0.101", 2, "0.11"),
        ("1", 2, "1.00"),
        ("0.1", 0, "1"),
        ("0", 2, "0.00"),
    ],
)
def test_rounding_is_up_to_the_next_unit_the_currency_has(amount: str, decimals: int, rounded: str) -> None:
    assert str(money.round_up(Decimal(amount), decimals)) == rounded


@given(st.decimals(min_value=0, max_value=10**12, allow_nan=False), st.integers(0, 6))
def test_rounding_up_adds_less_than_one_unit(amount: Decimal, decimals: int) -> None:
    unit = Decimal(1).scaleb(-decimals)
    with money.exact():
        assert 0 <= money.round_up(amount, decimals) - amount < unit


def test_sums_keep_every_digit() -> None:
    with money.exact():
        total = Decimal(10**15) + Decimal("0.000000000000000000001")
    assert str(total) == "1000000000000000.000000000000000000001"
