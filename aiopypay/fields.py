"""How the text of one field becomes a value. Each parser raises ValueError with what the field must be."""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal

from aiopypay import money

LARGEST_ID = 2**63 - 1
MAX_COMMENT_CHARACTERS = 255
MAX_NAME_CHARACTERS = 255
MAX_PASSWORD_CHARACTERS = 256
MAX_PAGE = 1000

_ID = re.compile(r"[0-9]{1,19}")
_CURRENCY_ID = re.compile(r"[A-Z]{3}")
_RATE = re.compile(r"[01](?:\.[0-9]{1,6})?")
_USERNAME = re.compile(r"[A-Za-z0-9_@.-]{1,64}")
_RESERVED_USERNAMES = {"me", ".", ".."}


class Number(str):
    """The raw text of a JSON number, or of true or false. A field that wants text does not take it."""

    __slots__ = ()


Parser = Callable[[str], Any]


def parse_id(text: str) -> int:
    """ASCII digits within a signed 64-bit integer."""
    if not _ID.fullmatch(text) or int(text) > LARGEST_ID:
        raise ValueError("must be the digits of an id, such as 4")
    return int(text)


parse_amount = money.parse_amount
parse_value = money.parse_value


def parse_text(text: str) -> str:
    """Text that PostgreSQL can hold: no NUL, no half of a surrogate pair (which is also how bad UTF-8 arrives)."""
    if isinstance(text, Number):
        raise ValueError("must be text")
    if "\0" in text or (not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)):
        raise ValueError("must be text in UTF-8 without NUL")
    return text


def parse_comment(text: str) -> str:
    """Text of at most 255 characters."""
    if len(text) > MAX_COMMENT_CHARACTERS:
        raise ValueError(f"must be at most {MAX_COMMENT_CHARACTERS} characters long")
    return parse_text(text)


def parse_username(text: str) -> str:
    """1 to 64 of letters, digits and _ @ . -, the whole string; not `me`, `.`, `..`."""
    if isinstance(text, Number) or not _USERNAME.fullmatch(text) or text.lower() in _RESERVED_USERNAMES:
        raise ValueError("must be 1 to 64 of the characters A-Z a-z 0-9 _ @ . - and not me, . or ..")
    return text


def parse_password(text: str) -> str:
    """Text of at most 256 characters without control characters (RFC 7617). The shortest is a setting."""
    if len(text) > MAX_PASSWORD_CHARACTERS:
        raise ValueError(f"must be at most {MAX_PASSWORD_CHARACTERS} characters long")
    if any(character < " " or character == "\x7f" for character in text):
        raise ValueError("must not contain control characters")
    return parse_text(text)


def parse_full_name(text: str) -> str:
    """Text of 1 to 255 characters."""
    if not 1 <= len(text) <= MAX_NAME_CHARACTERS:
        raise ValueError(f"must be 1 to {MAX_NAME_CHARACTERS} characters long")
    return parse_text(text)


def parse_sort(text: str) -> Literal["asc", "dsc"]:
    """`asc` or `dsc`."""
    if text == "asc":
        return "asc"
    if text == "dsc":
        return "dsc"
    raise ValueError("must be asc or dsc")


def parse_flag(text: str) -> bool:
    """`true` or `false`."""
    if text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true"


def parse_currency_id(text: str) -> str:
    """Three capital letters."""
    if isinstance(text, Number) or not _CURRENCY_ID.fullmatch(text):
        raise ValueError("must be three letters A-Z")
    return text


def parse_decimals(text: str) -> int:
    """0 to 6."""
    if text not in ("0", "1", "2", "3", "4", "5", "6"):
        raise ValueError("must be 0 to 6")
    return int(text)


def parse_rate(text: str) -> Decimal:
    """A rate from 0 (none) to 1 (all), with at most 6 decimals."""
    if not _RATE.fullmatch(text) or Decimal(text) > 1:
        raise ValueError("must be a rate from 0 to 1 with at most 6 decimals, such as 0.01")
    return Decimal(text)


def parse_ignored(text: str) -> str:
    """Anything: the field is taken and not looked at."""
    return text


def parse_offset(text: str) -> int:
    """0 or more."""
    if not _ID.fullmatch(text) or int(text) > LARGEST_ID:
        raise ValueError("must be 0 or more")
    return int(text)


def parse_limit(text: str) -> int:
    """1 to 1000."""
    if not _ID.fullmatch(text) or not 1 <= int(text) <= MAX_PAGE:
        raise ValueError(f"must be 1 to {MAX_PAGE}")
    return int(text)
