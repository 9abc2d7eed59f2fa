"""Idempotency-Key (IETF draft-ietf-httpapi-idempotency-key-header): the same key is the same order, for good."""

import hashlib
import json
import re
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

from aiohttp import web

from aiopypay.errors import InvalidRequest
from aiopypay.parsers import Number, takes
from aiopypay.random_ids import uuid7

HEADER = "Idempotency-Key"

# The namespace of order ids. It never changes: a node that did not see the first attempt arrives at the same id.
NAMESPACE = UUID("c1a1c0de-7a7e-5e1f-9a0b-a10909a9a001")

# Places of a request, as bits.
PLACES = 0x3FF

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@takes({"type": "string", "pattern": "^[!-~]{1,255}$", "description": "As the header Idempotency-Key."})
def parse_key(text: str) -> str:
    """1 to 255 visible ASCII characters."""
    if isinstance(text, Number) or not _KEY.fullmatch(text):
        raise ValueError("must be 1 to 255 visible ASCII characters")
    return text


def idempotency_key(request: web.Request) -> str | None:
    """Returns the caller's key, None where none was sent. Raises InvalidRequest for a malformed or repeated one."""
    keys = request.headers.getall(HEADER, [])
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise InvalidRequest(f"{HEADER}: must be one value of 1 to 255 visible ASCII characters", field=HEADER)
    return keys[0]


def order_id(user_id: int, key: str | None) -> UUID:
    """Returns the id of the order: derived from user and key, or minted where there is no key."""
    return uuid7() if key is None else uuid5(NAMESPACE, f"{user_id}:{key}")


def ids_of_places(user_id: int, key: str) -> tuple[UUID, UUID]:
    """Returns the lowest and the highest of the ids of a request's transfers by their place, which is in the last bits.

    In the index they lie side by side: whether one of them is used is one look.
    """
    # No client's key ends with a space.
    lowest = first_place(uuid5(NAMESPACE, f"{user_id}:{key} "))
    return lowest, UUID(int=lowest.int | PLACES)


def first_place(place_id: UUID) -> UUID:
    """Returns the lowest of the ids of a request's transfers, of which this is one."""
    return UUID(int=place_id.int & ~PLACES)


def fingerprint(route: str, **fields: int | str | Decimal | None) -> bytes:
    """Returns a digest of a request's content: its route and its parsed fields (10 and 10.00 are the same)."""
    return digest(
        [route, {name: plain(value) if isinstance(value, Decimal) else value for name, value in fields.items()}]
    )


def digest(content: Any) -> bytes:
    """Returns a digest of what JSON can hold, whatever the order of its members."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()


def plain(amount: Decimal) -> str:
    """Returns an amount in the form that it shares with all that are equal to it."""
    return format(amount.normalize(), "f")
