"""The ledger rule: every guard, the order of the guards, the commission."""

from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from aiopypay import errors
from aiopypay.ledger import NOBODY, SUPERUSER_ID, Account, Currency, Transfer, TransferOrder, plan_transfers

PAYER, PAYEE, STRANGER = 20, 30, 40

DOLLAR = Currency("USD", "United States Dollar", Decimal("0.01"), 2, commission_account_id=901, external_account_id=-1)
YEN = Currency("JPY", "Yen", Decimal("0.015"), 0, commission_account_id=902, external_account_id=-2)
FREE = replace(DOLLAR, commission=Decimal(0))

SOURCE = Account(200, PAYER, "USD", Decimal("100.00"))
TARGET = Account(300, PAYEE, "USD", Decimal("5.00"))
SAVINGS = Account(201, PAYER, "USD", Decimal("0.00"))
EUROS = Account(301, PAYEE, "EUR", Decimal("0.00"))
FOREIGN = Account(400, STRANGER, "USD", Decimal("100.00"))


def order(
    amount: str | Decimal = "10", *, source: int = SOURCE.id, target: int = TARGET.id, comment: str | None = None
) -> TransferOrder:
    return TransferOrder(
        id=UUID(int=1),
        user_id=PAYER,
        from_account_id=source,
        to_account_id=target,
        amount=Decimal(amount),
        comment=comment,
        fingerprint=b"content",
    )


def test_a_payment_to_another_user_bears_the_commission_on_top() -> None:
    assert plan_transfers(order("10"), SOURCE, TARGET, DOLLAR) == (
        Transfer("payment", SOURCE.id, TARGET.id, Decimal(10), "External payment"),
        Transfer("commission", SOURCE.id, DOLLAR.commission_account_id, Decimal("0.10"), "Commission"),
    )


def test_a_transfer_between_accounts_of_one_user_bears_none() -> None:
    assert plan_transfers(order("10", target=SAVINGS.id), SOURCE, SAVINGS, DOLLAR) == (
        Transfer("internal", SOURCE.id, SAVINGS.id, Decimal(10), "Internal transfer"),
    )


def test_the_superuser_pays_no_commission() -> None:
    purse = Account(901, SUPERUSER_ID, "USD", Decimal(10))
    from_superuser = replace(order("10", source=purse.id), user_id=SUPERUSER_ID)
    assert plan_transfers(from_superuser, purse, TARGET, DOLLAR) == (
        Transfer("payment", purse.id, TARGET.id, Decimal(10), "External payment"),
    )


def test_a_payment_to_the_superuser_bears_commission_like_any_other() -> None:
    purse = Account(DOLLAR.commission_account_id, SUPERUSER_ID, "USD", Decimal(0))
    payment, commission = plan_transfers(order("10", target=purse.id), SOURCE, purse, DOLLAR)
    assert (payment.amount, commission.amount) == (Decimal(10), Decimal("0.10"))
    assert payment.to_account_id == commission.to_account_id == purse.id


def test_a_currency_without_commission_books_none() -> None:
    assert [transfer.kind for transfer in plan_transfers(order("10"), SOURCE, TARGET, FREE)] == ["payment"]


@pytest.mark.parametrize(
    ("amount", "commission"),
    [
        ("0.01", "0.01"),
        ("0.99", "0.01"),
        ("1.00", "0.01"),
        ("1.01", "0.02"),
        ("10", "0.10"),
        ("10.00", "0.10"),
        ("10.01", "0.11"),
        ("33.33", "0.34"),
        ("99.00", "0.99"),
    ],
)
def test_commission_is_rounded_up_to_the_currencys_decimals(amount: str, commission: str) -> None:
    transfers = plan_transfers(order(amount), SOURCE, TARGET, DOLLAR)
    assert str(transfers[1].amount) == commission


def test_commission_of_a_currency_without_decimals_is_whole() -> None:
    source, target = replace(SOURCE, currency_id="JPY"), replace(TARGET, currency_id="JPY")
    transfers = plan_transfers(order("10"), source, target, YEN)
    assert transfers[1] == Transfer("commission", SOURCE.id, YEN.commission_account_id, Decimal(1), "Commission")


@pytest.mark.parametrize("comment", ["rent", "", "Аренда 🏠"])
def test_the_callers_comment_stands_on_the_payment_alone(comment: str) -> None:
    payment, commission = plan_transfers(order("10", comment=comment), SOURCE, TARGET, DOLLAR)
    assert payment.comment == comment
    assert commission.comment == "Commission"


def test_an_account_may_be_emptied_to_the_last_cent() -> None:
    exactly_enough = replace(SOURCE, amount=Decimal("10.10"))
    assert len(plan_transfers(order("10"), exactly_enough, TARGET, DOLLAR)) == 2


def test_one_cent_less_is_not_enough() -> None:
    with pytest.raises(errors.InsufficientFunds):
        plan_transfers(order("10"), replace(SOURCE, amount=Decimal("10.09")), TARGET, DOLLAR)


def test_the_commission_must_be_covered_too() -> None:
    with pytest.raises(errors.InsufficientFunds):
        plan_transfers(order("100"), SOURCE, TARGET, DOLLAR)
    assert plan_transfers(order("100", target=SAVINGS.id), SOURCE, SAVINGS, DOLLAR)


# The guards in the contract's order, each with what violates it: a change to (order, source, target).
Case = tuple[TransferOrder, Account | None, Account | None]
Violation = Callable[[Case], Case]

GUARDS: list[tuple[str, type[errors.Problem], str | None, Violation]] = [
    ("too many decimals", errors.InvalidRequest, "amount", lambda c: (replace(c[0], amount=Decimal("1.001")), *c[1:])),
    ("no source", errors.UnknownAccount, "from", lambda c: (c[0], None, c[2])),
    ("no target", errors.UnknownAccount, "to", lambda c: (c[0], c[1], None)),
    ("not the owner", errors.Forbidden, "from", lambda c: (replace(c[0], user_id=STRANGER), *c[1:])),
    ("one account", errors.SameAccount, "to", lambda c: (c[0], c[1], c[1])),
    ("currencies differ", errors.CurrencyMismatch, "to", lambda c: (*c[:2], c[2] and replace(c[2], currency_id="EUR"))),
    ("not covered", errors.InsufficientFunds, None, lambda c: (c[0], c[1] and replace(c[1], amount=Decimal(0)), c[2])),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "field", "violate"), [guard[1:] for guard in GUARDS], ids=[guard[0] for guard in GUARDS]
)
def test_each_guard_refuses_and_names_its_field(
    kind: type[errors.Problem], field: str | None, violate: Violation
) -> None:
    an_order, source, target = violate((order(), SOURCE, TARGET))
    with pytest.raises(errors.Problem) as refusal:
        plan_transfers(an_order, source, target, DOLLAR if source else None)
    assert type(refusal.value) is kind
    assert refusal.value.field == field


# Pairs that can be violated together: without a source there is no currency to count decimals of, nor an owner.
PAIRS = [
    (first, second)
    for position, first in enumerate(GUARDS)
    for second in GUARDS[position + 1 :]
    if {first[0], second[0]}
    not in (
        {"too many decimals", "no source"},
        {"no source", "not the owner"},
        {"no source", "one account"},
        {"no source", "not covered"},
        {"no target", "one account"},
        {"no target", "currencies differ"},
        {"one account", "currencies differ"},
    )
]


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=[f"{first[0]} before {second[0]}" for first, second in PAIRS])
def test_of_two_violated_guards_the_earlier_one_answers(
    first: tuple[str, type[errors.Problem], str | None, Violation],
    second: tuple[str, type[errors.Problem], str | None, Violation],
) -> None:
    an_order, source, target = first[3](second[3]((order(), SOURCE, TARGET)))
    with pytest.raises(errors.Problem) as refusal:
        plan_transfers(an_order, source, target, DOLLAR if source else None)
    assert type(refusal.value) is first[1]
    assert refusal.value.field == first[2]


def test_everything_wrong_at_once_is_first_of_all_the_amount() -> None:
    broke = replace(SOURCE, amount=Decimal(0), user_id=STRANGER)
    with pytest.raises(errors.InvalidRequest) as refusal:
        plan_transfers(order("1.001"), broke, broke, DOLLAR)
    assert refusal.value.field == "amount"


def test_an_unknown_source_is_named_before_an_unknown_target() -> None:
    with pytest.raises(errors.UnknownAccount) as refusal:
        plan_transfers(order("1.001"), None, None, None)
    assert refusal.value.field == "from"


def test_a_strangers_balance_is_not_told() -> None:
    with pytest.raises(errors.Forbidden) as refusal:
        plan_transfers(order("10000", source=FOREIGN.id), FOREIGN, TARGET, DOLLAR)
    assert "100" not in refusal.value.detail.replace(str(FOREIGN.id), "")


def test_trailing_zeros_count_as_decimals() -> None:
    with pytest.raises(errors.InvalidRequest):
        plan_transfers(order("10.000"), SOURCE, TARGET, DOLLAR)


def test_the_rule_is_pure() -> None:
    an_order = order("10")
    assert plan_transfers(an_order, SOURCE, TARGET, DOLLAR) == plan_transfers(an_order, SOURCE, TARGET, DOLLAR)
    assert SOURCE.amount == Decimal("100.00")


AMOUNTS = st.decimals(min_value=Decimal("0.01"), max_value=10**12, places=2)
BALANCES = st.decimals(min_value=0, max_value=10**15, places=2)
RATES = st.decimals(min_value=0, max_value=1, places=4)


@given(amount=AMOUNTS, balance=BALANCES, rate=RATES, internal=st.booleans())
def test_money_is_conserved_and_no_account_goes_below_zero(
    amount: Decimal, balance: Decimal, rate: Decimal, internal: bool
) -> None:
    source, target = replace(SOURCE, amount=balance), SAVINGS if internal else TARGET
    currency = replace(DOLLAR, commission=rate)
    an_order = order(amount, target=target.id)
    try:
        transfers = plan_transfers(an_order, source, target, currency)
    except errors.InsufficientFunds:
        due = amount if internal else amount + (amount * rate).quantize(Decimal("0.01"), ROUND_CEILING)
        assert balance < due
        return
    balances = {source.id: balance, target.id: target.amount, currency.commission_account_id: Decimal(0)}
    before = sum(balances.values())
    for transfer in transfers:
        assert transfer.amount > 0
        balances[transfer.from_account_id] -= transfer.amount
        balances[transfer.to_account_id] += transfer.amount
    assert sum(balances.values()) == before
    assert min(balances.values()) >= 0
    assert balances[target.id] == target.amount + amount


@given(amount=AMOUNTS, rate=RATES, decimals=st.integers(2, 6))
def test_the_commission_is_the_smallest_amount_not_below_the_rate(
    amount: Decimal, rate: Decimal, decimals: int
) -> None:
    currency = replace(DOLLAR, commission=rate, decimals=decimals)
    transfers = plan_transfers(order(amount), replace(SOURCE, amount=Decimal(10**13)), TARGET, currency)
    commission = sum((transfer.amount for transfer in transfers if transfer.kind == "commission"), Decimal(0))
    assert 0 <= commission - amount * rate < Decimal(1).scaleb(-decimals)
    assert commission == 0 or -int(commission.as_tuple().exponent) <= decimals


OUTSIDE = DOLLAR.external_account_id


def cash(value: str, *, account: Account = SOURCE, external: int = OUTSIDE, owner: int | None = None) -> TransferOrder:
    amount = Decimal(value)
    deposit = order(abs(amount), source=external, target=account.id)
    placed = deposit if amount > 0 else replace(deposit, from_account_id=account.id, to_account_id=external)
    return replace(placed, account_user_id=owner)


def plan_cash(placed: TransferOrder, account: Account | None = SOURCE, currency: Currency | None = DOLLAR) -> Transfer:
    source, target = (None, account) if placed.is_deposit else (account, None)
    (transfer,) = plan_transfers(placed, source, target, currency)
    return transfer


def test_a_deposit_comes_from_outside_without_commission() -> None:
    assert plan_cash(cash("10")) == Transfer("deposit", OUTSIDE, SOURCE.id, Decimal(10), "Deposit")
    assert plan_cash(cash("10"), replace(SOURCE, amount=Decimal(0))).amount == 10


def test_a_withdrawal_leaves_without_commission() -> None:
    assert plan_cash(cash("-10")) == Transfer("withdrawal", SOURCE.id, OUTSIDE, Decimal(10), "Withdrawal")
    assert plan_cash(cash("-100.00")).amount == SOURCE.amount


def test_a_withdrawal_that_is_not_covered_is_refused_in_the_documented_words() -> None:
    with pytest.raises(errors.InsufficientFunds) as refusal:
        plan_cash(cash("-100.01"))
    assert refusal.value.detail == "Not enough funds (100.00) for a -100.01 transaction!"
    assert str(refusal.value.balance) == "100.00"


def test_only_accounts_with_an_owner_are_judged() -> None:
    assert cash("10").account_ids == cash("-10").account_ids == (SOURCE.id,)
    assert order("10").account_ids == (SOURCE.id, TARGET.id)


@pytest.mark.parametrize("value", ["10", "-10"])
def test_the_guards_of_deposits_and_withdrawals(value: str) -> None:
    cases: list[tuple[type[errors.Problem], str, TransferOrder, Account | None, Currency | None]] = [
        (errors.InvalidRequest, "value", cash(f"{value}.001"), SOURCE, DOLLAR),
        (errors.UnknownAccount, "account_id", cash(value), None, None),
        (errors.Forbidden, "account_id", cash(value, account=FOREIGN), FOREIGN, DOLLAR),
        (errors.Forbidden, "account_id", cash(value, owner=STRANGER), SOURCE, DOLLAR),
        (errors.Forbidden, "account_id", cash(value, owner=NOBODY), SOURCE, DOLLAR),
        (errors.CurrencyMismatch, "account_id", cash(value, external=OUTSIDE - 1), SOURCE, DOLLAR),
    ]
    for kind, field, placed, account, currency in cases:
        with pytest.raises(errors.Problem) as refusal:
            plan_cash(placed, account, currency)
        assert type(refusal.value) is kind
        assert refusal.value.field == field


def test_an_order_for_somebody_else_is_about_their_account() -> None:
    assert plan_cash(cash("10", account=FOREIGN, owner=STRANGER), FOREIGN).to_account_id == FOREIGN.id
