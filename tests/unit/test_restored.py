"""Who is who in a database that was put back: numbers do not tell."""

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from aiopypay.stand_in.records import AccountIdentity, Identities, UserIdentity
from aiopypay.stand_in.restored import Recognised, misplaced, same_currencies, sort_accounts, sort_users
from aiopypay.store.recreation import FoundAccount, FoundUser
from tests.unit.stand_in_samples import NOON, account, currency, entry, user

LATER = datetime(2025, 3, 1, tzinfo=UTC)
ANN = replace(user(2, "ann", version=3), created_at=NOON)
THERE = FoundUser(2, "ann", NOON, 3)
MINE = replace(account(7), user_id=2)
FOUND = FoundAccount(7, "USD", NOON, 2)


@dataclass(frozen=True)
class Case:
    """Who is found where `ANN` is known, and what she is then."""

    found: tuple[FoundUser, ...]
    is_missing: bool = False
    is_older: bool = False
    is_stranger: bool = False


@pytest.mark.parametrize(
    "case",
    [
        Case((THERE,)),
        Case((), is_missing=True),
        Case((FoundUser(2, "ann", NOON, 2),), is_older=True),
        Case((FoundUser(2, "ann", LATER, 3),), is_stranger=True),
        Case((FoundUser(2, "mallory", NOON, 3),), is_stranger=True),
        # Her name was given to somebody else, and her number to nobody.
        Case((FoundUser(9, "Ann", LATER, 0),), is_stranger=True),
    ],
)
def test_a_user_is_recognised_by_id_name_and_registration(case: Case) -> None:
    users = sort_users([ANN], case.found)
    assert (users.missing == [ANN], users.older == [ANN], users.strangers == [ANN]) == (
        case.is_missing,
        case.is_older,
        case.is_stranger,
    )


def test_one_whose_registration_is_not_known_is_recognised_by_id_and_name() -> None:
    assert sort_users([replace(ANN, created_at=None)], [FoundUser(2, "ann", LATER, 3)]).strangers == []


@pytest.mark.parametrize(
    ("found", "is_stranger"),
    [
        (FOUND, False),
        (None, False),
        (FoundAccount(7, "EUR", NOON, 2), True),
        (FoundAccount(7, "USD", LATER, 2), True),
        (FoundAccount(7, "USD", NOON, 3), True),
    ],
)
def test_an_account_is_recognised_by_id_currency_owner_and_opening(
    found: FoundAccount | None, is_stranger: bool
) -> None:
    recognised = Recognised(users={2}, currencies={"USD"})
    accounts = sort_accounts([MINE], {} if found is None else {7: found}, recognised)
    assert accounts.missing == ([MINE] if found is None else [])
    assert accounts.strangers == ([MINE] if is_stranger else [])


@pytest.mark.parametrize("recognised", [Recognised(currencies={"USD"}), Recognised(users={2})])
def test_that_of_somebody_or_in_a_currency_that_is_not_is_not_either(recognised: Recognised) -> None:
    accounts = sort_accounts([MINE], {}, recognised)
    assert (accounts.missing, accounts.strangers) == ([], [MINE])


def test_a_currency_is_recognised_by_its_accounts() -> None:
    known = currency("USD")
    assert same_currencies([known], [replace(known, description="renamed")]) == [known]
    assert same_currencies([known], [replace(known, external_account_id=-4)]) == []
    assert same_currencies([known], []) == []


def test_what_is_not_recognised_is_not_booked_for() -> None:
    recognised = Recognised(users={2}, accounts={1, 2, -1})
    assert recognised.lacks(2, [1, -1]) is None
    assert "user 3" in (recognised.lacks(3, [1]) or "")
    assert "account 5" in (recognised.lacks(2, [1, 5]) or "")


def test_an_entry_is_placed_where_all_that_it_names_is_the_same() -> None:
    users = {2: FoundUser(2, "ann", NOON, 9), 3: FoundUser(3, "bob", NOON, 0)}
    accounts = {1: FoundAccount(1, "USD", NOON, 2), 2: FoundAccount(2, "USD", NOON, 3)}
    identities = Identities(
        (UserIdentity(2, "ann", NOON), UserIdentity(3, "bob", NOON)),
        (AccountIdentity(1, "USD", NOON, 2), AccountIdentity(2, "USD", NOON, 3)),
    )
    placed = replace(entry(1, source=1, target=2), identities=identities)
    assert misplaced(placed, users, accounts) is None
    assert misplaced(placed, users | {3: FoundUser(3, "mallory", NOON, 0)}, accounts) is not None
    assert misplaced(placed, users, accounts | {2: FoundAccount(2, "EUR", NOON, 3)}) is not None
    assert misplaced(placed, users, {1: accounts[1]}) is not None
    assert misplaced(replace(placed, identities=None), users, accounts) is not None
