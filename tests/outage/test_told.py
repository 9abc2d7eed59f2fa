"""Balances that fit no serial order are found, and those that fit one are not: on histories made by hand."""

from collections.abc import Sequence
from decimal import Decimal

import pytest

from .bookings import Bookings
from .changes import Changes, Correction, Outage
from .ledger import Ledger, TransferRow
from .newcomers import Login, PasswordChange, password_violations
from .payments import Answer, Payment, Person, Read
from .told import Told, ToldBalances, told_by

ANNA = Person(2, "anna", "secret", {4: "USD"})
HERS, BERTS, OUTSIDE = 4, 7, -1

# She has 100 and pays 10 (sent at 10, answered at 20), 20 (30 to 40), 30 (50 to 60).
TRANSFERS = [
    TransferRow(1, "credit", "opening", OUTSIDE, HERS, Decimal(100), "Opening balance"),
    TransferRow(2, "first", "payment", HERS, BERTS, Decimal(10), "first"),
    TransferRow(3, "second", "payment", HERS, BERTS, Decimal(20), "second"),
    TransferRow(4, "third", "payment", HERS, BERTS, Decimal(30), "third"),
]
PAID = {"first": (10, 20), "second": (30, 40), "third": (50, 60)}


def _payment(name: str, started: int, ended: int, status: int | None = 200) -> Payment:
    amount = next(row.amount for row in TRANSFERS if row.order_id == name)
    answer = Answer(started, ended, status, {"order_id": name} if status else None)
    return Payment(ANNA, HERS, BERTS, amount, name, name, [answer])


def _found(
    told: Sequence[tuple[int, int, int]],
    *,
    payments: Sequence[Payment] | None = None,
    changes: Changes | None = None,
    transfers: Sequence[TransferRow] = tuple(TRANSFERS),
    at: float = 0.0,
) -> list[str]:
    """What is found where balances were told by questions put and answered at these events."""
    ledger = Ledger({}, {}, list(transfers), set())
    reads = [
        Told(HERS, Decimal(balance), Answer(started, ended, 200, ended_at=at), "a read")
        for balance, started, ended in told
    ]
    paid = payments or [_payment(name, *times) for name, times in PAID.items()]
    return list(ToldBalances(ledger, Bookings(ledger), paid, changes or Changes(), set()).violations(reads))


@pytest.mark.parametrize(
    "told",
    [
        [(100, 1, 5)],
        [(90, 21, 25)],
        [(40, 61, 62)],
        # While the second is under way, both are true.
        [(90, 31, 39)],
        [(70, 31, 39)],
        # Of questions that overlap either may have come first.
        [(70, 31, 39), (90, 32, 38)],
        [(100, 1, 15), (90, 12, 18)],
        # A question that takes long may tell anything in between.
        [(100, 5, 100), (90, 5, 100), (70, 5, 100), (40, 5, 100)],
    ],
)
def test_balances_that_fit_a_serial_order_are_sound(told: list[tuple[int, int, int]]) -> None:
    assert _found(told) == []


@pytest.mark.parametrize(
    "told",
    [
        pytest.param([(89, 21, 25)], id="never true"),
        pytest.param([(100, 21, 25)], id="before what was acknowledged"),
        pytest.param([(70, 21, 25)], id="before it was sent"),
        pytest.param([(100, 1, 5), (90, 6, 8)], id="before it was sent, after another"),
        pytest.param([(70, 31, 33), (90, 34, 36)], id="back in time"),
        pytest.param([(40, 51, 53), (70, 54, 56)], id="back in time, again"),
    ],
)
def test_balances_that_fit_no_serial_order_are_found(told: list[tuple[int, int, int]]) -> None:
    assert len(_found(told)) == 1


def test_what_was_booked_though_nobody_was_told_may_show_at_any_time_after_it_was_sent() -> None:
    payments = [_payment("first", 10, 20), _payment("second", 30, 40, None), _payment("third", 50, 60)]

    assert _found([(90, 41, 45), (70, 46, 48)], payments=payments) == []
    assert len(_found([(70, 41, 45), (90, 46, 48)], payments=payments)) == 1
    assert len(_found([(70, 21, 25)], payments=payments)) == 1


def test_what_was_accepted_without_the_database_shows_from_then_on() -> None:
    payments = [_payment(name, *times, status=202) for name, times in PAID.items()]

    assert _found([(70, 41, 45)], payments=payments) == []
    assert len(_found([(90, 41, 45)], payments=payments)) == 1


def test_a_correction_may_be_missing_only_where_it_came_too_late_to_be_seen() -> None:
    booked = TransferRow(5, "correction", "deposit", OUTSIDE, HERS, Decimal(5), "Correction")
    correction = Correction(70, "correction", HERS, Decimal(5), ended=71, ended_at=100.0)
    soon, long_after = Outage(90.0, 101.0), Outage(90.0, 110.0)

    def found(outage: Outage, balance: int) -> list[str]:
        changes = Changes([correction], outages=[outage])
        return _found([(balance, 72, 73)], changes=changes, transfers=[*TRANSFERS, booked], at=120.0)

    assert found(soon, 45) == found(soon, 40) == found(long_after, 45) == []
    assert len(found(long_after, 40)) == 1
    assert len(found(soon, 39)) == 1


def test_a_refusal_tells_a_balance_too() -> None:
    online = Answer(21, 22, 402, {"detail": "Account 4 holds 90.00 USD; 500.00 are needed, 5.00 of them commission"})
    offline = Answer(
        21, 22, 402, {"detail": {"message": "Not enough funds (358.63) for a -1420.69 transaction!", "balance": 1}}
    )
    payment = Payment(ANNA, HERS, BERTS, Decimal(500), "too much", None, [online, offline])

    assert [told.balance for told in told_by([], [payment])] == [Decimal("90.00"), Decimal("358.63")]


def test_all_accounts_of_a_read_are_looked_at() -> None:
    read = Read(ANNA, "/users/2/accounts", Answer(21, 25, 200), {HERS: Decimal(90), BERTS: Decimal(11)})
    ledger = Ledger({}, {}, TRANSFERS, set())
    payments = [_payment(name, *times) for name, times in PAID.items()]
    found = list(ToldBalances(ledger, Bookings(ledger), payments, Changes(), set()).violations(told_by([read], [])))

    assert len(found) == 1
    assert f"account {BERTS}" in found[0]


CHANGED = PasswordChange(2, "old", "new", Answer(10, 20, 200))
IN_DOUBT = PasswordChange(2, "old", "new", Answer(10, 20, 503))


@pytest.mark.parametrize(
    ("change", "password", "answer"),
    [
        (CHANGED, "old", Answer(5, 15, 200)),
        (CHANGED, "old", Answer(21, 22, 401)),
        (CHANGED, "new", Answer(21, 22, 200)),
        (CHANGED, "old", Answer(15, 18, 401)),
        (IN_DOUBT, "old", Answer(21, 22, 200)),
        (IN_DOUBT, "old", Answer(21, 22, 401)),
        (IN_DOUBT, "new", Answer(21, 22, 401)),
        (CHANGED, "old", Answer(21, 22, 503)),
    ],
)
def test_passwords_that_may_hold_are_sound(change: PasswordChange, password: str, answer: Answer) -> None:
    assert list(password_violations([Login(2, password, answer)], [change])) == []


@pytest.mark.parametrize(
    ("password", "answer"),
    [("old", Answer(21, 22, 200)), ("new", Answer(21, 22, 401)), ("old", Answer(5, 8, 401))],
    ids=["replaced and let in", "holds and kept out", "held and kept out"],
)
def test_passwords_that_cannot_hold_are_found(password: str, answer: Answer) -> None:
    assert len(list(password_violations([Login(2, password, answer)], [CHANGED]))) == 1
