"""How the text of one field becomes a value: ids, text, pages. Money is in `money_fields`.

Each parser raises ValueError with what the field must be.
"""

import re
from typing import Literal

from aiopypay.parsers import Number, takes
from aiopypay.password_rules import normalised

LARGEST_ID = 2**63 - 1
MAX_COMMENT_CHARACTERS = 255
MAX_NAME_CHARACTERS = 255
MAX_PASSWORD_CHARACTERS = 256
MAX_PAGE = 1000

_ID = re.compile(r"[0-9]{1,19}")
_USERNAME = re.compile(r"[A-Za-z0-9_@.-]{1,64}")
_RESERVED_USERNAMES = {"me", ".", ".."}
_SCALAR = {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]}
_NO_NUL = r"^[^\x00]*$"
# Nobody has an id of more than 18 digits that does not begin with 0 to 8.
_ID_DIGITS = "^(?:[0-9]{1,18}|[0-8][0-9]{18})$"


@takes({"type": "integer", "minimum": 0, "maximum": LARGEST_ID}, digits=_ID_DIGITS)
def parse_id(text: str) -> int:
    """ASCII digits within a signed 64-bit integer."""
    if not _ID.fullmatch(text) or int(text) > LARGEST_ID:
        raise ValueError("must be the digits of an id, such as 4")
    return int(text)


@takes({"type": "string", "pattern": _NO_NUL})
def parse_text(text: str) -> str:
    """Text that PostgreSQL can hold: no NUL, no half of a surrogate pair (which is also how bad UTF-8 arrives)."""
    if isinstance(text, Number):
        raise ValueError("must be text")
    if "\0" in text or (not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)):
        raise ValueError("must be text in UTF-8 without NUL")
    return text


@takes(
    {"type": "string", "maxLength": MAX_COMMENT_CHARACTERS, "pattern": _NO_NUL, "examples": ["The rent of May"]},
)
def parse_comment(text: str) -> str:
    """Text of at most 255 characters."""
    if len(text) > MAX_COMMENT_CHARACTERS:
        raise ValueError(f"must be at most {MAX_COMMENT_CHARACTERS} characters long")
    return parse_text(text)


@takes(
    {
        "type": "string",
        "pattern": r"^(?!(?:[mM][eE]|\.{1,2})$)[A-Za-z0-9_@.-]{1,64}$",
        "description": "Unique without regard to case.",
        "examples": ["vasya"],
    }
)
def parse_username(text: str) -> str:
    """1 to 64 of letters, digits and _ @ . -, the whole string; not `me`, `.`, `..`."""
    if isinstance(text, Number) or not _USERNAME.fullmatch(text) or text.lower() in _RESERVED_USERNAMES:
        raise ValueError("must be 1 to 64 of the characters A-Z a-z 0-9 _ @ . - and not me, . or ..")
    return text


@takes(
    {
        "type": "string",
        "format": "password",
        "maxLength": MAX_PASSWORD_CHARACTERS,
        "pattern": r"^[^\x00-\x1f\x7f]*$",
        "description": "How short a new one may be is a setting, by default 8 characters. The 10 000 most common ones "
        "and the user's own name are refused.",
        "examples": ["correct horse"],
    }
)
def parse_password(text: str) -> str:
    """A new password, normalised: of at most 256 characters, none of control (RFC 7617). The shortest is a setting."""
    text = normalised(parse_text(text))
    if len(text) > MAX_PASSWORD_CHARACTERS:
        raise ValueError(f"must be at most {MAX_PASSWORD_CHARACTERS} characters long")
    if any(character < " " or character == "\x7f" for character in text):
        raise ValueError("must not contain control characters")
    return text


@takes(
    {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_NAME_CHARACTERS,
        "pattern": _NO_NUL,
    }
)
def parse_full_name(text: str) -> str:
    """Text of 1 to 255 characters."""
    if not 1 <= len(text) <= MAX_NAME_CHARACTERS:
        raise ValueError(f"must be 1 to {MAX_NAME_CHARACTERS} characters long")
    return parse_text(text)


@takes({"type": "string", "enum": ["asc", "dsc"]})
def parse_sort(text: str) -> Literal["asc", "dsc"]:
    """`asc` or `dsc`."""
    if text == "asc":
        return "asc"
    if text == "dsc":
        return "dsc"
    raise ValueError("must be asc or dsc")


@takes({"type": "boolean"}, digits="^(?:true|True|TRUE|false|False|FALSE)$")
def parse_flag(text: str) -> bool:
    """`true` or `false`; also as Python and spreadsheets write them, `True` and `TRUE`."""
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    raise ValueError("must be true or false")


@takes({"type": "string", "pattern": "^(?:password)?$", "examples": ["password"]})
def parse_grant_type(text: str) -> str:
    """Text; what it must be has a problem of its own."""
    return parse_text(text)


@takes({"type": "string"}, json=_SCALAR)
def parse_ignored(text: str) -> str:
    """Anything: the field is taken and not looked at."""
    return text


@takes({"type": "integer", "minimum": 0, "maximum": LARGEST_ID, "examples": [0]}, digits=_ID_DIGITS)
def parse_offset(text: str) -> int:
    """0 or more."""
    if not _ID.fullmatch(text) or int(text) > LARGEST_ID:
        raise ValueError("must be 0 or more")
    return int(text)


@takes({"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "examples": [100]}, digits="^[0-9]{1,4}$")
def parse_limit(text: str) -> int:
    """1 to 1000."""
    if not _ID.fullmatch(text) or not 1 <= int(text) <= MAX_PAGE:
        raise ValueError(f"must be 1 to {MAX_PAGE}")
    return int(text)
