"""How the text of one field becomes an amount, or a part of a currency. Parsers raise ValueError as in `fields`."""

import re
from decimal import Decimal

from aiopypay import money
from aiopypay.parsers import Number, takes

_CURRENCY_ID = re.compile(r"[A-Z]{3}")
# Up to money.MAX_AMOUNT.
_ABOVE_0 = r"(?=.*[1-9])(?:[0-9]{1,12}(?:\.[0-9]+)?|1000000000000(?:\.0+)?)"
_RATE = re.compile(r"[01](?:\.[0-9]{1,6})?")

parse_amount = takes(
    {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": int(money.MAX_AMOUNT),
        "description": "An amount in the major unit of the currency, with at most the currency's decimals. A string of "
        "its digits is taken alike.",
        "examples": [Decimal("10.50")],
    },
    digits=f"^{_ABOVE_0}$",
)(money.parse_amount)

parse_value = takes(
    {
        "type": "number",
        "minimum": -int(money.MAX_AMOUNT),
        "maximum": int(money.MAX_AMOUNT),
        "not": {"const": 0},
        "description": "An amount with a sign: above 0 it is deposited, below 0 withdrawn. A string of its digits is "
        "taken alike.",
        "examples": [Decimal("420.69")],
    },
    digits=f"^-?{_ABOVE_0}$",
)(money.parse_value)


@takes({"type": "string", "pattern": "^[A-Z]{3}$"})
def parse_currency_id(text: str) -> str:
    """Three capital letters."""
    if isinstance(text, Number) or not _CURRENCY_ID.fullmatch(text):
        raise ValueError("must be three letters A-Z")
    return text


@takes({"type": "integer", "minimum": 0, "maximum": 6}, digits="^[0-6]$")
def parse_decimals(text: str) -> int:
    """0 to 6."""
    if text not in ("0", "1", "2", "3", "4", "5", "6"):
        raise ValueError("must be 0 to 6")
    return int(text)


@takes(
    {
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "description": "A rate from 0 (none) to 1 (all), with at most 6 decimals.",
        "examples": [Decimal("0.01")],
    },
    digits=r"^(?:0(?:\.[0-9]{1,6})?|1(?:\.0{1,6})?)$",
)
def parse_rate(text: str) -> Decimal:
    """A rate from 0 (none) to 1 (all), with at most 6 decimals."""
    if not _RATE.fullmatch(text) or Decimal(text) > 1:
        raise ValueError("must be a rate from 0 to 1 with at most 6 decimals, such as 0.01")
    return Decimal(text)
