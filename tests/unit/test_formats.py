"""What is on disk has a format of its own: stores of every released format are read as they were written."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from msgspec.structs import replace

from aiopypay.stand_in import formats
from aiopypay.stand_in.records import AccountIdentity, Identities, Plan, UserIdentity
from aiopypay.stand_in.store import Store
from aiopypay.store.moments import Moment
from tests.unit import stand_in_samples as samples
from tests.unit.golden import put_golden_store
from tests.unit.stand_in_samples import NOON, entry

LATER = datetime(2025, 3, 1, tzinfo=UTC)


def test_what_is_encoded_is_decoded() -> None:
    identities = Identities(
        (UserIdentity(2, "ann", LATER), UserIdentity(3, "bob", None)), (AccountIdentity(7, "USD", NOON, 2),)
    )
    grouped = replace(entry(1).order, group=UUID(int=7), account_user_id=0, comment="ünïcode", idempotency_key=None)
    for one in (
        entry(1),
        replace(entry(2), in_doubt=True, held=True, told=False, identities=identities),
        replace(entry(3), order=grouped, transfers=()),
    ):
        assert formats.decode_entry(formats.encode_entry(one)) == one
    for plan in (
        Plan([entry(n) for n in range(4)]),
        Plan([], Moment(9, UUID(int=1))),
        Plan([entry(1)], Moment(1, UUID(int=2))),
    ):
        assert formats.decode_plan(formats.encode_plan(plan)) == plan
    refused = replace(samples.record(1), status="refused", reason="why", posted_at=None, balance=None, transfers=())
    for order in (samples.record(1), refused, replace(samples.record(2), idempotency_key="key-2")):
        assert formats.decode_order(formats.encode_order(order)) == order
    user = replace(samples.user(2, "Ann"), deactivations=3, created_at=LATER)
    assert formats.decode_user(formats.encode_user(user)) == user
    currency = samples.currency("EUR", "0.03")
    assert formats.decode_currency(formats.encode_currency(currency)) == currency
    account = samples.account(5, "1.50", user_id=None)
    assert formats.decode_account(formats.encode_account(account)) == account


@pytest.mark.parametrize("content", [b"", b"\xc0", b"\x80", b"\x91\x04", b"\x93\x03\x01\x02"])
def test_what_makes_no_sense_is_told_as_such(content: bytes) -> None:
    for decode in (formats.decode_entry, formats.decode_plan, formats.decode_order, formats.decode_user):
        with pytest.raises(msgspec.MsgspecError):
            decode(content)


@pytest.mark.parametrize("store_format", [1, 2])
def test_a_store_of_an_older_format_is_read_as_it_was_written(tmp_path: Path, store_format: int) -> None:
    put_golden_store(store_format, tmp_path / "golden")
    fresh = Store.open(tmp_path / "fresh")
    samples.fill(fresh)
    expected = samples.content(fresh)
    fresh.close()
    # Opened twice: the first time brings it up to this format.
    for _ in range(2):
        store = Store.open(tmp_path / "golden")
        assert store.damage is None
        found = samples.content(store)
        store.close()
        if store_format == 1:
            # One plan was all there could be.
            found["plans"] = {**found["plans"], 2: expected["plans"][2]}  # type: ignore[dict-item, index]
        assert found | {"node": None} == expected | {"node": None}


def test_a_store_of_this_format_is_read_as_it_was_written(tmp_path: Path) -> None:
    put_golden_store(3, tmp_path / "golden")
    fresh = Store.open(tmp_path / "fresh")
    samples.fill(fresh)
    samples.fill_with_what_format_3_adds(fresh)
    expected = samples.content(fresh)
    fresh.close()
    store = Store.open(tmp_path / "golden")
    assert store.damage is None
    assert samples.content(store) | {"node": None} == expected | {"node": None}
    store.close()


def test_a_store_of_an_older_format_is_written_on(tmp_path: Path) -> None:
    put_golden_store(1, tmp_path / "golden")
    store = Store.open(tmp_path / "golden")
    with store.transaction(durable=True):
        store.write_plan(7, Plan([entry(95)], Moment(1, UUID(int=5))))
        store.append([replace(entry(96), told=False)])
        store.mark_posted([3], NOON)
        store.remember_users([replace(samples.user(2, "Ann", version=2), created_at=LATER)])
        store.remember_accounts([samples.account(1, "1.00", version=3)])
        store.remember_orders([replace(samples.record(97), idempotency_key="key")])
    store.close()
    store = Store.open(tmp_path / "golden")
    assert store.damage is None
    assert store.plans()[7] == Plan([entry(95)], Moment(1, UUID(int=5)))
    assert store.pending(9)[-1].entry == replace(entry(96), told=False)
    known = store.user(2)
    assert known is not None
    assert (known.version, known.created_at) == (2, LATER)
    remembered = store.order(samples.order_id(97))
    assert remembered is not None
    assert remembered.idempotency_key == "key"
    balance = store.account(1)
    assert balance is not None
    assert balance.amount == Decimal("1.00")
    store.close()
