"""Orders that may have been booked before: what is told follows one order of events, and nobody spends on a guess."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from aiopypay import errors
from aiopypay.ledger import TransferOrder
from aiopypay.settings import OfflineSettings
from aiopypay.stand_in import reading
from aiopypay.stand_in.acceptance import Answer, accept
from aiopypay.stand_in.deputy_work import FILLED
from aiopypay.stand_in.records import Entry
from aiopypay.stand_in.store import Store

from .stand_in_samples import NOON, account, currency

ANN, BOB, PURSE, OUTSIDE = 7, 8, 3, -1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Ann (2) and Bob (4) have 100.00 each; not all keys are known."""
    store = Store.open(tmp_path / "stand-in")
    with store.transaction(durable=False):
        store.remember_accounts([account(ANN), account(BOB, user_id=4), account(PURSE, "0.00", user_id=1)])
        store.remember_currencies([currency("USD")])
        store.set_setting(FILLED, "yes")
    yield store
    store.close()


def deposit(amount: str, *, key: str | None = None, group: UUID | None = None) -> TransferOrder:
    """Of Ann's."""
    return TransferOrder(uuid4(), 2, OUTSIDE, ANN, Decimal(amount), None, b"", key, group=group)


def payment(amount: str, *, key: str | None = None, group: UUID | None = None, back: bool = False) -> TransferOrder:
    """Ann's to Bob, or `back`. It costs a commission of one per cent."""
    source, target, user_id = (BOB, ANN, 4) if back else (ANN, BOB, 2)
    return TransferOrder(uuid4(), user_id, source, target, Decimal(amount), None, b"", key, group=group)


def placed(store: Store, *orders: TransferOrder) -> list[Answer]:
    """The answers without the database, of one batch."""
    return accept(store, orders, OfflineSettings(), NOON, 0.0, is_alone=True)


def told(store: Store, account_id: int = ANN) -> Decimal:
    """What a read tells."""
    return reading.account(store, account_id).amount


def balances(answers: list[Answer]) -> list[Decimal]:
    """What acceptances tell."""
    return [answer.balance for answer in answers if isinstance(answer, Entry)]


@pytest.mark.parametrize("at_once", [True, False])
def test_each_answer_counts_those_before_it_and_a_read_counts_all(store: Store, at_once: bool) -> None:
    orders = [deposit("50", key="one"), deposit("50", key="two"), payment("10", key="three"), payment("10")]
    answers = placed(store, *orders) if at_once else [answer for order in orders for answer in placed(store, order)]
    assert balances(answers) == [Decimal(150), Decimal(200), Decimal("189.90"), Decimal("179.80")]
    assert told(store) == Decimal("179.80")
    assert told(store, BOB) == Decimal(120)


@pytest.mark.parametrize("at_once", [True, False])
def test_what_one_brings_cannot_be_spent_and_is_not_said_to_be_missing(store: Store, at_once: bool) -> None:
    orders = [deposit("50", key="old"), payment("120"), payment("200"), payment("99")]
    answers = placed(store, *orders) if at_once else [answer for order in orders for answer in placed(store, order)]
    assert isinstance(answers[1], errors.NotKnownHere)
    assert isinstance(answers[2], errors.InsufficientFunds)
    assert answers[2].balance == Decimal(150)
    assert balances(answers) == [Decimal(150), Decimal("50.01")]
    assert told(store) == Decimal("50.01")


@pytest.mark.parametrize("at_once", [True, False])
def test_nobody_is_refused_for_what_one_takes(store: Store, at_once: bool) -> None:
    """Had it been booked before, the money would be there."""
    orders = [payment("50", key="old"), payment("90"), payment("150")]
    answers = placed(store, *orders) if at_once else [answer for order in orders for answer in placed(store, order)]
    assert balances(answers) == [Decimal("49.50")]
    assert isinstance(answers[1], errors.NotKnownHere)
    assert isinstance(answers[2], errors.InsufficientFunds)
    assert answers[2].balance == Decimal("49.50")


def test_of_a_group_that_spends_it_nothing_is_accepted_and_nothing_stays(store: Store) -> None:
    group = uuid4()
    answers = placed(
        store,
        payment("20", key="before", back=True),
        payment("80", key="one", group=group),
        payment("30", group=group),
        payment("99"),
    )
    assert [type(answer) for answer in answers] == [Entry, errors.GroupRefused, errors.NotKnownHere, Entry]
    assert balances(answers) == [Decimal("79.80"), Decimal("20.01")]
    assert told(store) == Decimal("20.01")
    assert store.pending_count() == 2


def test_what_was_never_booked_before_can_be_spent(store: Store) -> None:
    answers = placed(store, deposit("50"), payment("120"))
    assert balances(answers) == [Decimal(150), Decimal("28.80")]
