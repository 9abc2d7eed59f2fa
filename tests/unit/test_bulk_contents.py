"""What a bulk's key stands for: a request that was taken once keeps its content and its orders' ids for good."""

import json
from typing import Any

import pytest

from aiopypay.bulk_bodies import _from_csv, _from_json
from aiopypay.bulk_orders import placed_of, unit_of
from aiopypay.slices import Slices
from aiopypay.units import Unit

PLACES = "987cc4a7-31db-5d01-b0a6-7638b2b364"
FIRST = "c79389a1-7f30-511b-97c5-a58ccfd4dd83"


def transfer(amount: Any, **members: Any) -> dict[str, Any]:
    return {"from": 4, "to": 7, "amount": amount, **members}


def in_json(mode: str, *transfers: dict[str, Any]) -> str:
    """A bulk in JSON, written as the golden values were."""
    return json.dumps({"mode": mode, "transfers": transfers}, separators=(",", ":"))


async def unit_made_of(text: str) -> Unit:
    """The orders of a bulk, in JSON or in CSV."""
    slices = Slices()
    bulk = await (_from_json(text, None, slices) if text.startswith("{") else _from_csv(text, "each", slices))
    return await unit_of(bulk, await placed_of(bulk, slices), 2, "may", slices)


# As version 0.1 had them, which refused each transfer with an empty key or a null, and each row of commas.
GOLDEN = [
    (
        in_json("all", transfer(1, comment=""), transfer("2.50", key="a")),
        "f57e59459df2a3da033aa4ac0d4d1915152991fa8b72a6f410f3b27aa4aaf881",
        [FIRST, "0771b9c4-9e75-5f71-9bdf-0e6519c69330"],
    ),
    (
        in_json("each", transfer(1), transfer(2, comment=None), transfer(3)),
        "3892a8916e653d1fa187e6532e8023d8c78948a6d4315530442fa1a75565c5d4",
        [FIRST, PLACES + "02"],
    ),
    (
        in_json("each", transfer(1, key=""), transfer(2)),
        "cb38bc10b80f41dbb69d5b9e63f53afa0672afe15bd4dd545832515bff6c1077",
        [PLACES + "01"],
    ),
    (
        in_json("each", transfer("x"), transfer(2)),
        "32a630fe0a907059cd8be70534a80cb9b6fd032c2a9ff29c8757142c6bcefca9",
        [PLACES + "01"],
    ),
    (
        "\ufefffrom,to,amount,comment\r\n4,7,1,tea\r\n4,7,2,\r\n",
        "906c2ec0b326326fd169c5170ddc31848b1e10ab920eb0cfa37144c0738eb19a",
        [FIRST, PLACES + "01"],
    ),
    (
        "from,to,amount,comment\n4,7,1,tea\n,,,\n4,7,2,\n,,,\n",
        "fe1d3b3e7d1f26d691c7c7082ef3984a3fafcac8b91ae1f4c5b80838ff46432d",
        [FIRST, PLACES + "02"],
    ),
    (
        "\ufefffrom,to,amount\n4,7,x\n4,7,2\n",
        "81cc117aa1e1f8b0c3547f82767de3a6ad91b0b0265b33eb2aff95367ddf6b38",
        [PLACES + "01"],
    ),
]


@pytest.mark.parametrize(("text", "content", "order_ids"), GOLDEN)
async def test_content_and_ids_never_change(text: str, content: str, order_ids: list[str]) -> None:
    unit = await unit_made_of(text)
    assert unit.key is not None
    assert unit.key.fingerprint.hex() == content
    assert set(order_ids) <= {str(order.id) for order in unit.orders}
    assert len({order.id for order in unit.orders}) == len(unit.orders)


async def test_an_empty_comment_is_booked_as_none() -> None:
    assert [order.comment for order in (await unit_made_of(GOLDEN[0][0])).orders] == [None, None]
