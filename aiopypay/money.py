"""Amounts: parsing, rounding and writing. `Decimal` throughout, never a float.

An amount is in the currency's major unit (10.50 is ten dollars and fifty cents).
"""

import re
from contextlib import AbstractContextManager
from decimal import ROUND_CEILING, Context, Decimal, Inexact, InvalidOperation, localcontext
from functools import cache

MAX_AMOUNT = Decimal(1_000_000_000_000)
MAX_AMOUNT_CHARACTERS = 64

_AMOUNT = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_EXACT = Context(prec=100, traps=[InvalidOperation, Inexact])
_ROUND_UP = Context(prec=100, rounding=ROUND_CEILING, traps=[InvalidOperation])


def parse_amount(text: str) -> Decimal:
    """Returns the amount written as ASCII digits with an optional point between digits.

    Raises ValueError, whose message says what an amount looks like, for anything else and for
    amounts that are not above 0 or beyond 1 000 000 000 000. The number of decimals is kept as
    written: whether a currency has that many is the ledger's question.
    """
    if len(text) > MAX_AMOUNT_CHARACTERS or not _AMOUNT.fullmatch(text):
        raise ValueError("must be digits with an optional decimal point, such as 10 or 10.50")
    amount = Decimal(text)
    if not 0 < amount <= MAX_AMOUNT:
        raise ValueError(f"must be above 0 and at most {MAX_AMOUNT}")
    return amount


def parse_value(text: str) -> Decimal:
    """Returns an amount with a sign: a minus before it is allowed. Raises ValueError as `parse_amount` does."""
    if text.startswith("-"):
        return -parse_amount(text[1:])
    return parse_amount(text)


def decimals_of(amount: Decimal) -> int:
    """Returns how many decimals the amount was written with (10.50 has 2)."""
    exponent = amount.as_tuple().exponent
    return max(0, -int(exponent))


def in_decimals(amount: Decimal, decimals: int) -> Decimal:
    """Returns the same amount written with `decimals` decimals. Raises Inexact where that would change it."""
    return amount.quantize(_unit(decimals), context=_EXACT)


def round_up(amount: Decimal, decimals: int) -> Decimal:
    """Returns the smallest amount with `decimals` decimals that is not below `amount`."""
    return amount.quantize(_unit(decimals), context=_ROUND_UP)


@cache
def _unit(decimals: int) -> Decimal:
    """The smallest amount with so many decimals."""
    return Decimal(1).scaleb(-decimals)


def exact() -> AbstractContextManager[Context]:
    """Within it, sums and products are exact to 100 digits or raise Inexact; never rounded silently."""
    return localcontext(_EXACT)
