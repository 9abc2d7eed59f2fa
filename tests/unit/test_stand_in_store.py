"""The stand-in store: what it remembers, its journal, its plans, and what a transaction promises."""

import stat
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from aiopypay.ledger import Transfer
from aiopypay.stand_in import opening
from aiopypay.stand_in import store as store_module
from aiopypay.stand_in.formats import FORMAT, decode_entry
from aiopypay.stand_in.records import Plan
from aiopypay.stand_in.seal import Seal
from aiopypay.stand_in.store import DuplicateEntry, Store, StoreDamaged
from tests.unit import stand_in_samples as samples
from tests.unit.stand_in_samples import NOON, account, currency, entry, order_id, record, user

LATER = NOON + timedelta(hours=1)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "stand-in"


@pytest.fixture
def store(directory: Path) -> Iterator[Store]:
    store = Store.open(directory)
    yield store
    assert store.damage is None
    store.close()


@pytest.fixture
def filled(store: Store) -> Store:
    samples.fill(store)
    return store


def append(store: Store, *numbers: int) -> None:
    with store.transaction(durable=True):
        store.append([entry(number) for number in numbers])


def test_a_new_store_is_empty_and_private(store: Store, directory: Path) -> None:
    assert store.node_id
    assert store.dropped is None
    assert store.counts() == (0, 0)
    assert store.pending_count() == 0
    assert store.oldest_pending() is None
    assert store.plans() == {}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


def test_everything_is_there_again_after_a_restart(directory: Path) -> None:
    store = Store.open(directory)
    samples.fill(store)
    before = samples.content(store)
    store.close()
    again = Store.open(directory)
    assert again.damage is None
    assert again.dropped is None
    assert samples.content(again) == before
    again.close()


def test_a_failed_transaction_leaves_nothing_behind(filled: Store) -> None:
    before = samples.content(filled)
    with pytest.raises(ZeroDivisionError), filled.transaction(durable=True):  # noqa: PT012 - a body is what is tested
        filled.withdraw_plans([1])
        filled.append([entry(50)])
        filled.mark_posted([3], NOON)
        filled.remember_accounts([account(1, "1.00", version=9), account(77)])
        filled.remember_users([user(2, "renamed", 2)])
        filled.remember_orders([record(50)])
        filled.set_setting("installation", "8")
        filled.clear_uncertain("bob")
        raise ZeroDivisionError
    assert samples.content(filled) == before


def test_transactions_are_not_nested_and_writes_need_one(store: Store) -> None:
    with pytest.raises(RuntimeError, match="in a transaction only"):
        store.set_setting("name", "value")
    with pytest.raises(RuntimeError, match="one transaction"), store.transaction(durable=False):
        with store.transaction(durable=True):
            pass


def test_settings_are_overwritten(store: Store) -> None:
    assert store.setting("mode") is None
    for value in ("online", "stand-in"):
        with store.transaction(durable=False):
            store.set_setting("mode", value)
        assert store.setting("mode") == value


@pytest.mark.parametrize(("version", "amount"), [(1, "100.00"), (2, "100.00"), (3, "7.00")])
def test_only_a_newer_version_replaces_an_account(store: Store, version: int, amount: str) -> None:
    with store.transaction(durable=False):
        store.remember_accounts([account(1, "50.00", version=1), account(1, "100.00", version=2)])
    with store.transaction(durable=False):
        store.remember_accounts([account(1, "7.00", version=version)])
    known = store.account(1)
    assert known
    assert known.amount == Decimal(amount)


def test_what_a_batch_left_is_kept_of_unknown_accounts_too(store: Store) -> None:
    read_before = account(3, "50.00", version=1)
    with store.transaction(durable=False):
        store.remember_accounts([account(3, "7.00", version=2)])
    with store.transaction(durable=False):
        store.remember_accounts([read_before])
    assert store.account(3) == account(3, "7.00", version=2)


def test_accounts_are_found_by_id_and_by_user(filled: Store) -> None:
    assert filled.account(404) is None
    assert list(filled.accounts([3, -1, 404])) == [-1, 3]
    assert [known.id for known in filled.accounts_of_user(2, 0, 100)] == [0, *range(1, 10)][1:]
    assert filled.account(1) == replace(
        account(1, "90.00", version=2), pending=Decimal("-40.40"), debit=Decimal("40.40")
    )
    assert filled.counts() == (11, 3)


def test_users_are_found_in_any_case_under_their_newest_name(store: Store) -> None:
    with store.transaction(durable=False):
        store.remember_users([user(2, "Ann"), user(3, "bob")])
    assert store.user_by_name("aNN") == user(2, "Ann")
    with store.transaction(durable=False):
        store.remember_users([user(2, "Anna", 2)])
        store.remember_users([user(2, "Older", 1), user(3, "bob")])
    assert store.user_by_name("ann") is None
    assert store.user_by_name("older") is None
    assert store.user_by_name("ANNA") == user(2, "Anna", 2)
    assert store.counts() == (0, 2)


def test_a_user_is_uncertain_until_cleared(store: Store) -> None:
    with store.transaction(durable=True):
        store.mark_uncertain("Ann")
        store.mark_uncertain("ann")
    assert store.is_uncertain("ANN")
    assert not store.is_uncertain("bob")
    with store.transaction(durable=False):
        store.clear_uncertain("aNn")
        store.clear_uncertain("bob")
    assert not store.is_uncertain("Ann")


def test_what_others_have_changed_is_marked_beside_the_names_of_users(store: Store) -> None:
    with store.transaction(durable=True):
        store.mark_uncertain("accounts")
        store.mark_changed([("accounts", 7), ("accounts", -1), ("users", 2), ("currencies", None), ("users", 2)])
    assert store.uncertain() == ["accounts"]
    assert sorted(store.changed(), key=str) == [("accounts", -1), ("accounts", 7), ("currencies", None), ("users", 2)]
    assert store.uncertain_count() == 5
    assert store.changed_accounts([7, 8, 2]) == {7}
    assert store.changed_users([7, 8, 2]) == {2}
    assert store.has_changed("users")
    with store.transaction(durable=False):
        store.clear_changed([("users", 2), ("users", 3), ("accounts", 7)])
    assert not store.has_changed("users")
    assert store.has_changed("accounts")
    assert store.uncertain() == ["accounts"]


def test_so_many_of_the_uncertain_are_told_at_once(store: Store) -> None:
    with store.transaction(durable=False):
        for name in ("zoe", "!", "ann"):
            store.mark_uncertain(name)
        store.mark_changed([("users", 2)])
    assert store.uncertain() == ["!", "ann", "zoe"]
    assert [store.uncertain(limit) for limit in (1, 2, 3)] == [["!"], ["!", "ann"], ["!", "ann", "zoe"]]


def test_all_of_a_table_may_have_changed(store: Store) -> None:
    with store.transaction(durable=True):
        store.mark_changed([("accounts", None), ("users", 2)])
    assert store.changed_accounts([7, 8]) == {7, 8}
    assert store.changed_users([7, 8]) == set()


def test_accounts_above_an_id_are_forgotten(store: Store) -> None:
    with store.transaction(durable=False):
        store.remember_accounts([account(number) for number in (-1, 1, 2, 3)])
        store.forget_accounts(above=2)
    assert store.accounts([-1, 1, 2, 3]).keys() == {-1, 1, 2}


def test_currencies_keep_their_order_when_remembered_again(store: Store) -> None:
    with store.transaction(durable=False):
        store.remember_currencies([currency("USD"), currency("EUR")])
    with store.transaction(durable=False):
        store.remember_currencies([currency("CNY"), currency("USD", "0.02"), currency("EUR")])
    assert store.currencies() == [currency("USD", "0.02"), currency("EUR"), currency("CNY")]


def test_the_newest_orders_are_kept(directory: Path) -> None:
    store = Store.open(directory, orders_max=5)
    with store.transaction(durable=False):
        store.remember_orders([record(number) for number in range(5)])
    with store.transaction(durable=False):
        store.remember_orders([replace(record(0), reason="told again")])
    assert store.setting("orders_trimmed") is None
    assert store.order(order_id(0)) == replace(record(0), reason="told again")
    with store.transaction(durable=False):
        store.remember_orders([record(5)])
    assert store.setting("orders_trimmed") is None
    with store.transaction(durable=False):
        store.remember_orders([record(6), record(7)])
    assert store.setting("orders_trimmed") == "yes"
    assert [number for number in range(9) if store.order(order_id(number))] == [2, 3, 4, 5, 6, 7]
    with store.transaction(durable=False):
        store.trim_orders()
    assert not store.has_excess_orders()
    assert [number for number in range(9) if store.order(order_id(number))] == [3, 4, 5, 6, 7]
    assert store.order(order_id(7)) == record(7)
    store.close()
    again = Store.open(directory)
    assert again.damage is None
    again.close()


def test_orders_are_looked_up_in_large_batches(store: Store) -> None:
    for _ in range(2):
        with store.transaction(durable=False):
            store.remember_orders([record(number) for number in range(250)])
    assert store.order(order_id(249)) == record(249)


def test_plans_are_there_until_withdrawn(store: Store) -> None:
    for number in (1, 2, 3):
        with store.transaction(durable=True):
            store.write_plan(number, Plan([entry(number), entry(10 * number)]))
    with store.transaction(durable=False):
        store.withdraw_plans([2])
        store.withdraw_plans([2, 4])
    assert list(store.plans().items()) == [(1, Plan([entry(1), entry(10)])), (3, Plan([entry(3), entry(30)]))]
    with store.transaction(durable=False):
        store.withdraw_plans([3, 1])
    assert store.plans() == {}


def test_a_store_of_a_later_format_is_left_alone(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr(opening, "Seal", partial(Seal, format=FORMAT + 1))
        later.setattr(store_module, "FORMAT", FORMAT + 1)
        Store.open(directory).close()
    store = Store.open(directory)
    assert store.damage
    assert f"the store has format {FORMAT + 1}, this version reads up to {FORMAT}" in store.damage
    store.close()


def test_the_journal_keeps_order_and_content(store: Store) -> None:
    append(store, 5, 3)
    append(store, 4)
    assert [(found.sequence, found.entry) for found in store.pending(10)] == [
        (1, entry(5)),
        (2, entry(3)),
        (3, entry(4)),
    ]
    assert [found.sequence for found in store.pending(2)] == [1, 2]
    assert store.pending_count() == 3
    oldest = store.oldest_pending()
    assert oldest
    assert (oldest.sequence, oldest.state, oldest.reason, oldest.settled_at) == (1, "pending", None, None)
    by_order = store.entry(order_id(3))
    assert by_order
    assert by_order.sequence == 2
    assert store.entry(order_id(404)) is None


def test_an_order_joins_the_journal_once(store: Store) -> None:
    append(store, 1)
    with pytest.raises(DuplicateEntry), store.transaction(durable=True):
        store.append([entry(2), entry(1)])
    assert store.entry(order_id(2)) is None
    with pytest.raises(RuntimeError, match="cannot be kept"), store.transaction(durable=True):
        with pytest.raises(DuplicateEntry):
            store.append([entry(1)])
    append(store, 2)
    assert [found.sequence for found in store.pending(10)] == [1, 2]


def test_entries_are_listed_by_state(filled: Store) -> None:
    def listed(state: str | None, limit: int = 10, after: int = 0) -> list[int]:
        return [found.sequence for found in filled.entries(state, limit, after)]  # type: ignore[arg-type]

    assert listed(None) == [1, 2, 3, 4, 5, 6]
    assert listed(None, 2, 3) == [4, 5]
    assert listed("posted") == [1]
    assert listed("pending", 2, 4) == [5, 6]
    refused = filled.entries("refused", 10)
    assert [(found.sequence, found.reason, found.settled_at) for found in refused] == [
        (2, "account 1 is short of money", NOON)
    ]


def test_outcomes_take_changes_out_of_the_accounts_again(store: Store) -> None:
    with store.transaction(durable=False):
        store.remember_accounts([account(1), account(2)])
    append(store, 1, 2)
    both = store.accounts([1, 2])
    assert (both[1].pending, both[1].debit) == (Decimal("-20.20"), Decimal("20.20"))
    assert (both[2].pending, both[2].debit) == (Decimal("20.00"), Decimal(0))
    with store.transaction(durable=False):
        store.mark_posted([1], NOON)
        store.remember_accounts([account(1, "89.90", version=2)])
    known = store.account(1)
    assert known
    assert (known.amount, known.pending, known.debit) == (Decimal("89.90"), Decimal("-10.10"), Decimal("10.10"))
    with store.transaction(durable=False):
        store.mark_refused(2, "short of money", NOON)
    assert store.account(1) == account(1, "89.90", version=2)
    assert store.pending_count() == 0


def test_an_account_that_becomes_known_late_has_its_pending_changes(store: Store) -> None:
    append(store, 1)
    with store.transaction(durable=False):
        store.remember_accounts([account(3)])
    known = store.account(3)
    assert known
    assert (known.pending, known.debit) == (Decimal("0.10"), Decimal(0))


def test_an_account_that_pays_itself_is_debited(store: Store) -> None:
    odd = replace(entry(1), transfers=(Transfer("internal", 1, 1, Decimal("5.00"), "Internal transfer"),))
    with store.transaction(durable=True):
        store.remember_accounts([account(1)])
        store.append([odd])
    known = store.account(1)
    assert known
    assert (known.pending, known.debit) == (Decimal(0), Decimal("5.00"))


def test_an_outcome_is_final(store: Store) -> None:
    append(store, 1, 2)
    with store.transaction(durable=False):
        store.mark_posted([1], NOON)
        store.mark_posted([1], LATER)
    assert store.entries("posted", 10)[0].settled_at == NOON
    with pytest.raises(ValueError, match=r"\[1\] are not pending"), store.transaction(durable=False):
        store.mark_refused(1, "no", NOON)
    with pytest.raises(ValueError, match=r"\[3\] are not pending"), store.transaction(durable=False):
        store.mark_posted([2, 3], NOON)
    assert store.pending_count() == 1


def test_what_cannot_be_booked_any_more_counts_for_nothing(filled: Store) -> None:
    with filled.transaction(durable=True):
        filled.mark_unplaced(1, "user 2 is somebody else", NOON)
        filled.mark_unplaced(3, "account 1 is another one", NOON)
    assert [(found.sequence, found.reason) for found in filled.entries("unplaced", 9)] == [
        (1, "user 2 is somebody else"),
        (3, "account 1 is another one"),
    ]
    assert [found.sequence for found in filled.pending(2)] == [4, 5]
    assert filled.pending_count() == 3
    with pytest.raises(ValueError, match=r"\[2\] are not pending"), filled.transaction(durable=True):
        filled.mark_unplaced(2, "it was refused", NOON)


def test_settled_entries_are_pruned_from_the_head_only(directory: Path) -> None:
    store = Store.open(directory)
    append(store, 1, 2, 3, 4, 5)
    with store.transaction(durable=False):
        store.mark_posted([1, 4], NOON)
        store.mark_posted([2], LATER)
    with store.transaction(durable=False):
        assert store.prune(NOON) == 0
    with store.transaction(durable=False):
        assert store.prune(LATER) == 1
    with store.transaction(durable=False):
        assert store.prune(LATER + timedelta(seconds=1)) == 1
        assert store.prune(LATER + timedelta(seconds=1)) == 0
    assert [found.sequence for found in store.entries(None, 10)] == [3, 4, 5]
    with store.transaction(durable=True):
        store.mark_posted([3, 5], NOON)
        assert [store.prune(LATER, limit=2), store.prune(LATER, limit=2)] == [2, 1]
    append(store, 6)
    assert [found.sequence for found in store.pending(10)] == [6]
    store.close()
    again = Store.open(directory)
    assert again.damage is None
    again.close()


def test_a_row_that_does_not_verify_is_damage_and_not_known(directory: Path) -> None:
    store = Store.open(directory)
    samples.fill(store)
    store._connection.execute("UPDATE accounts SET user_id = 7 WHERE id = 5")
    assert store.account(4)
    assert store.account(5) is None
    assert store.damage == "1 of the rows read from the table accounts are damaged"
    for use in (store.plans, lambda: store.pending(1), lambda: store.transaction(durable=True).__enter__()):
        with pytest.raises(StoreDamaged):
            use()
    assert store.account(4)
    assert len(store.entries(None, 10)) == 6
    store.close()


def test_damage_found_in_a_transaction_undoes_it(directory: Path) -> None:
    store = Store.open(directory)
    samples.fill(store)
    store._connection.execute("UPDATE journal SET state = 'pending' WHERE sequence = 1")
    with pytest.raises(StoreDamaged), store.transaction(durable=True):  # noqa: PT012 - a body is what is tested
        store.set_setting("installation", "8")
        assert len(store.entries(None, 10)) == 5
    assert store.setting("installation") == "7"
    store.close()


def test_a_transaction_that_changes_nothing_is_not_counted(store: Store) -> None:
    before = store._seal.commit
    with store.transaction(durable=False):
        store.account(1)
    assert store._seal.commit == before
    with store.transaction(durable=True):
        store.account(1)
    assert store._seal.commit == before + 1


def test_the_log_is_folded_into_the_store(store: Store, directory: Path) -> None:
    for version in range(1, 12):
        with store.transaction(durable=False):
            store.remember_accounts([account(number, version=version) for number in range(1000)])
    assert (directory / "store.sqlite").stat().st_size > 50_000
    assert store.counts() == (1000, 0)


def test_an_entry_of_an_older_journal_is_read() -> None:
    older = msgspec.msgpack.decode(msgspec.msgpack.encode(entry(1)))
    del older["order"]["account_user_id"]
    assert decode_entry(msgspec.msgpack.encode(older)) == entry(1)


def test_an_entry_that_was_written_before_there_were_groups_is_read() -> None:
    written = entry(1)
    content = msgspec.msgpack.decode(msgspec.msgpack.encode(written))
    del content["order"]["group"]
    assert decode_entry(msgspec.msgpack.encode(content)) == written
    grouped = replace(written, order=msgspec.structs.replace(written.order, group=order_id(9)))
    assert decode_entry(msgspec.msgpack.encode(grouped)) == grouped
