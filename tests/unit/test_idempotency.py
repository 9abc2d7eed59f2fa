"""Order ids and contents: what makes two requests one order."""

from decimal import Decimal
from uuid import UUID

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from aiopypay.errors import InvalidRequest
from aiopypay.forms import build
from aiopypay.idempotency import HEADER, fingerprint, idempotency_key, order_id
from aiopypay.transfer_orders import TransferForm, content_of


def key_of(*values: str) -> str | None:
    headers = CIMultiDict([(HEADER, value) for value in values])
    return idempotency_key(make_mocked_request("POST", "/", headers=headers))


@pytest.mark.parametrize("key", ["a", "x" * 255, "8e03978e-40d5-43dd-bc93-6894a57f9324", '"quoted"', "!~"])
def test_a_key_is_1_to_255_visible_ascii_characters(key: str) -> None:
    assert key_of(key) == key


@pytest.mark.parametrize("key", ["", "x" * 256, "two words", "ключ", "tab\there", "\x7f"])
def test_anything_else_is_refused_by_name(key: str) -> None:
    with pytest.raises(InvalidRequest) as problem:
        key_of(key)
    assert problem.value.field == HEADER


def test_a_repeated_key_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        key_of("a", "a")


def test_no_key_is_none() -> None:
    assert key_of() is None


def test_the_order_id_is_derived_from_user_and_key_for_good() -> None:
    # This id never changes: a node that did not see the first attempt arrives at the same one.
    assert order_id(2, "rent-2024-05") == UUID("ec6d13b0-466f-5241-bf7b-b18c446c123d")


def test_without_a_key_each_order_has_an_id_of_its_own() -> None:
    assert order_id(2, None) != order_id(2, None)


def test_keys_belong_to_their_user() -> None:
    assert order_id(2, "rent") != order_id(3, "rent")
    assert order_id(1, "2:rent") != order_id(12, ":rent")
    assert order_id(1, "1:rent") != order_id(11, "rent")


@given(st.integers(1, 2**63 - 1), st.text(min_size=1, max_size=20), st.integers(1, 2**63 - 1), st.text(min_size=1))
def test_two_pairs_of_user_and_key_never_share_an_id(user: int, key: str, other_user: int, other_key: str) -> None:
    assert (order_id(user, key) == order_id(other_user, other_key)) == ((user, key) == (other_user, other_key))


@pytest.mark.parametrize("amount", ["10", "10.0", "10.00", "010"])
def test_amounts_of_one_value_are_one_content(amount: str) -> None:
    assert fingerprint("route", amount=Decimal(amount)) == fingerprint("route", amount=Decimal(10))


@pytest.mark.parametrize(
    "other",
    [
        fingerprint("other route", source=4, amount=Decimal(10), comment=None),
        fingerprint("route", source=5, amount=Decimal(10), comment=None),
        fingerprint("route", source=4, amount=Decimal(100), comment=None),
        fingerprint("route", source=4, amount=Decimal("10.01"), comment=None),
        fingerprint("route", source=4, amount=Decimal(10), comment=""),
        fingerprint("route", source=4, amount=Decimal(10), comment="None"),
        fingerprint("route", source=4, amount=Decimal(10), comment="null"),
    ],
)
def test_everything_else_is_another_content(other: bytes) -> None:
    assert fingerprint("route", source=4, amount=Decimal(10), comment=None) != other


@pytest.mark.parametrize(
    ("comment", "content"),
    [
        (None, "baf81093c5edf1de29879d1d25070dcfdcd03b75ce748d94d360eff821ac58cb"),
        ("", "0c3fbf17edd13933d57f6e4c81dc9fdad4b044cc49d2002bcefd9845d6295cf4"),
        ("tea", "e66dff36ebb4327a22af114c8298374db36abca6b10e856958e46b5f00738d31"),
    ],
)
def test_a_transfers_content_never_changes(comment: str | None, content: str) -> None:
    pairs = [("from", "4"), ("to", "7"), ("amount", "10.50")] + ([] if comment is None else [("comment", comment)])
    assert content_of(build(TransferForm, pairs)).hex() == content


def test_a_deposits_content_never_changes() -> None:
    content = fingerprint("POST /api/balances", user_id=2, value=Decimal("1.5"), account_id=None)
    assert content.hex() == "19ad1508d07e9d51a0a22166d50f52c7d90e1ffde6ed8a943df58477b21b7ec1"


def test_the_order_of_fields_does_not_matter() -> None:
    assert fingerprint("route", a=1, b="x") == fingerprint("route", b="x", a=1)
