"""The limits of what is accepted without the database: in all, by user, by what is left of the disk."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from aiopypay import errors
from aiopypay.settings import OfflineSettings
from aiopypay.stand_in.caps import Caps
from aiopypay.stand_in.store import DuplicateEntry, Store
from tests.unit.stand_in_samples import NOON, entry

LIMITS = OfflineSettings()
PLENTY = 10**12


def caps(limits: OfflineSettings = LIMITS, *, pending: int = 0, of_user: int = 0, free_bytes: int = PLENTY) -> Caps:
    made = Caps(limits, 0.0, pending=pending, pending_of=lambda _: of_user, free_bytes=free_bytes)
    order = entry(1).order
    made.debits = {order.account_id: Decimal(0)}
    return made


def accept(made: Caps) -> None:
    made(entry(1).order, entry(1).transfers)


def test_the_journal_has_an_end_by_default() -> None:
    accept(caps(pending=999_999))
    with pytest.raises(errors.OfflineOrdersCap):
        accept(caps(pending=1_000_000))


def test_a_tenth_of_it_is_a_users() -> None:
    accept(caps(of_user=99_999))
    with pytest.raises(errors.OfflineUserOrdersCap):
        accept(caps(of_user=100_000))


def test_but_a_bulk_in_any_case() -> None:
    limits = replace(LIMITS, max_orders=2000)
    accept(caps(limits, of_user=999))
    with pytest.raises(errors.OfflineUserOrdersCap):
        accept(caps(limits, of_user=1000))


def test_orders_of_one_batch_count_and_those_undone_do_not() -> None:
    made = caps(of_user=99_998)
    accept(made)
    accept(made)
    with pytest.raises(errors.OfflineUserOrdersCap):
        accept(made)
    made.undo(entry(1).order, entry(1).transfers)
    accept(made)


def test_a_floor_of_free_disk_is_kept_for_settling() -> None:
    accept(caps(free_bytes=1024**3))
    with pytest.raises(errors.OfflineDiskFloor, match="disk of this node, which has 1023 MiB free"):
        accept(caps(free_bytes=1024**3 - 1))
    accept(caps(replace(LIMITS, min_free_bytes=0), free_bytes=0))


def test_the_journal_knows_how_many_are_whose(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "stand-in")
    user_id = entry(1).order.user_id
    with store.transaction(durable=True):
        store.append([entry(1), entry(2)])
    with pytest.raises(DuplicateEntry), store.transaction(durable=True):
        store.append([entry(3), entry(3)])
    assert store.pending_of(user_id) == 2
    assert store.pending_of(user_id + 1) == 0
    with store.transaction(durable=True):
        store.mark_posted([1], NOON)
    store.close()
    again = Store.open(tmp_path / "stand-in")
    assert again.pending_of(user_id) == 1
    again.close()
