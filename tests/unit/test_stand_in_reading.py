"""What is read without the database, and what is not known."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import asdict, replace

from aiopypay.errors import NotKnownHere
from aiopypay.stand_in import reading
from aiopypay.stand_in.deputy_work import FILLED, users_by_name
from aiopypay.stand_in.records import KnownUser
from aiopypay.stand_in.store import Store
from aiopypay.store.accounts import AccountRow
from aiopypay.store.users import User

from .stand_in_samples import account, currency, user


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store that is filled: Ann (2) has account 7 in dollars, Bob (3) has none."""
    store = Store.open(tmp_path / "stand-in")
    with store.transaction(durable=False):
        store.remember_users([user(2, "Ann"), user(3, "bob")])
        store.remember_accounts([account(7, user_id=2)])
        store.remember_currencies([currency("USD")])
        store.set_setting(FILLED, "yes")
    yield store
    store.close()


def mark_uncertain(store: Store, username: str) -> None:
    with store.transaction(durable=False):
        store.mark_uncertain(username)


def test_a_balance_is_the_first_account_in_the_currency(store: Store) -> None:
    found = reading.balance_account(store, 2, "USD")
    assert found is not None
    assert (found.account.id, found.external_account_id) == (7, -1)


def test_a_user_who_is_known_and_certain_has_no_account_that_is_not_known(store: Store) -> None:
    assert reading.balance_account(store, 2, "EUR") is None
    assert reading.balance_account(store, 3, "USD") is None


def test_one_who_is_not_known_or_not_certain_may_have_one(store: Store) -> None:
    with pytest.raises(NotKnownHere):
        reading.balance_account(store, 4, "USD")
    mark_uncertain(store, "BOB")
    with pytest.raises(NotKnownHere):
        reading.balance_account(store, 3, "USD")


def test_an_account_that_is_known_is_there_however_uncertain_its_owner(store: Store) -> None:
    mark_uncertain(store, "ann")
    assert reading.balance_account(store, 2, "USD") is not None


def test_an_account_whose_currency_is_not_known_is_no_hindrance_to_others(store: Store) -> None:
    with store.transaction(durable=False):
        # The user's first, and one behind it.
        store.remember_accounts([replace(account(number, user_id=2), currency_id="XTS") for number in (6, 8)])
    found = reading.accounts_by_id(store, [6, 7, 8, 9])
    assert [type(found[number]) for number in (6, 7, 8, 9)] == [NotKnownHere, AccountRow, NotKnownHere, NotKnownHere]
    balance = reading.balance_account(store, 2, "USD")
    assert balance is not None
    assert balance.account.id == 7
    with pytest.raises(NotKnownHere):
        reading.balance_account(store, 2, "XTS")
    # A list that lacks one would say that there is none.
    with pytest.raises(NotKnownHere):
        reading.accounts_of_user(store, 2, after=0, limit=100)


def test_a_user_is_told_as_the_database_would(store: Store) -> None:
    known = replace(user(2, "Ann", version=2), deactivations=3)
    with store.transaction(durable=False):
        store.remember_users([known])
    told = User(2, "Ann", "Ann", known.password_hash, is_admin=False, is_active=True, deactivations=3)
    assert users_by_name(store, ["ann"], filled=True) == {"ann": told}


def test_one_whom_an_older_version_remembered_was_never_deactivated() -> None:
    content = asdict(user(2, "Ann"))
    del content["deactivations"]
    older = msgspec.msgpack.encode(content)
    assert msgspec.msgpack.decode(older, type=KnownUser) == user(2, "Ann")
