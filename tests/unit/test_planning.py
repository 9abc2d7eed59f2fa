"""The rule over a batch: in order of arrival, each order on the balances that the one before left."""

from decimal import Decimal
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from aiopypay import errors
from aiopypay.ledger import SUPERUSER_ID, Account, Currency, TransferOrder
from aiopypay.planning import PlannedOrder, changes, plan_batch

DOLLAR = Currency("USD", "United States Dollar", Decimal("0.01"), 2, commission_account_id=901, external_account_id=-1)
EURO = Currency("EUR", "Euro", Decimal("0.03"), 2, commission_account_id=903, external_account_id=-3)
CURRENCIES = {"USD": DOLLAR, "EUR": EURO}

ALICE, BOB, CAROL = 20, 30, 40


def accounts(**amounts: str) -> dict[int, Account]:
    """One dollar account a user, with the user's id as its id."""
    owners = {"alice": ALICE, "bob": BOB, "carol": CAROL}
    return {owners[name]: Account(owners[name], owners[name], "USD", Decimal(text)) for name, text in amounts.items()}


def pays(number: int, source: int, target: int, amount: str) -> TransferOrder:
    return TransferOrder(UUID(int=number), source, source, target, Decimal(amount), None, b"")


def planned(outcome: PlannedOrder | errors.Problem) -> PlannedOrder:
    assert isinstance(outcome, PlannedOrder), outcome
    return outcome


def test_money_that_arrives_can_be_spent_by_the_next_order() -> None:
    orders = [pays(1, ALICE, BOB, "50"), pays(2, BOB, CAROL, "40")]
    first, second = plan_batch(orders, accounts(alice="100", bob="0", carol="0"), CURRENCIES)
    assert planned(first).balance == Decimal("49.50")
    assert planned(second).balance == Decimal("9.60")


def test_money_that_is_spent_cannot_be_spent_again() -> None:
    orders = [pays(1, ALICE, BOB, "90"), pays(2, ALICE, CAROL, "90")]
    first, second = plan_batch(orders, accounts(alice="100", bob="0", carol="0"), CURRENCIES)
    assert planned(first).balance == Decimal("9.10")
    assert isinstance(second, errors.InsufficientFunds)


def test_the_order_of_arrival_decides() -> None:
    orders = [pays(1, BOB, CAROL, "40"), pays(2, ALICE, BOB, "50")]
    first, second = plan_batch(orders, accounts(alice="100", bob="0", carol="0"), CURRENCIES)
    assert isinstance(first, errors.InsufficientFunds)
    planned(second)


def test_a_refusal_changes_nothing_for_those_behind_it() -> None:
    orders = [pays(1, ALICE, BOB, "1000"), pays(2, ALICE, BOB, "99")]
    refused, second = plan_batch(orders, accounts(alice="100", bob="0"), CURRENCIES)
    assert isinstance(refused, errors.InsufficientFunds)
    assert planned(second).balance == Decimal("0.01")


def test_unknown_accounts_are_refused_alone() -> None:
    orders = [pays(1, CAROL, BOB, "1"), pays(2, ALICE, CAROL, "1"), pays(3, ALICE, BOB, "1")]
    outcomes = plan_batch(orders, accounts(alice="100", bob="0"), CURRENCIES)
    assert [type(outcome) for outcome in outcomes] == [errors.UnknownAccount, errors.UnknownAccount, PlannedOrder]


def test_commission_earned_in_the_batch_can_be_spent_in_it_when_the_commission_account_pays() -> None:
    purse = DOLLAR.commission_account_id
    known = accounts(alice="1000", bob="0") | {purse: Account(purse, SUPERUSER_ID, "USD", Decimal(0))}
    from_purse = TransferOrder(UUID(int=2), SUPERUSER_ID, purse, BOB, Decimal(5), None, b"")
    _, second = plan_batch([pays(1, ALICE, BOB, "500"), from_purse], known, CURRENCIES)
    assert planned(second).balance == Decimal("0.00")


def test_the_given_accounts_are_left_as_they_were() -> None:
    known = accounts(alice="100", bob="0")
    plan_batch([pays(1, ALICE, BOB, "50")], known, CURRENCIES)
    assert known == accounts(alice="100", bob="0")


def test_changes_are_summed_by_account_in_ascending_order_of_ids() -> None:
    orders = [pays(1, ALICE, BOB, "10"), pays(2, BOB, ALICE, "4"), pays(3, ALICE, CAROL, "1")]
    outcomes = plan_batch(orders, accounts(alice="100", bob="0", carol="0"), CURRENCIES)
    summed = changes([planned(outcome) for outcome in outcomes])
    assert list(summed.items()) == [
        (ALICE, Decimal("-7.11")),
        (BOB, Decimal("5.96")),
        (CAROL, Decimal(1)),
        (DOLLAR.commission_account_id, Decimal("0.15")),
    ]


def test_of_no_plans_there_are_no_changes() -> None:
    assert plan_batch([], {}, CURRENCIES) == []
    assert changes([]) == {}


PEOPLE = st.sampled_from([ALICE, BOB, CAROL])


@given(
    st.lists(st.tuples(PEOPLE, PEOPLE, st.decimals(min_value=Decimal("0.01"), max_value=200, places=2)), max_size=40)
)
def test_whatever_arrives_sums_to_zero_and_leaves_no_balance_below_zero(
    payments: list[tuple[int, int, Decimal]],
) -> None:
    known = accounts(alice="100", bob="50", carol="0")
    orders = [pays(number, *payment[:2], str(payment[2])) for number, payment in enumerate(payments)]
    plans = [outcome for outcome in plan_batch(orders, known, CURRENCIES) if isinstance(outcome, PlannedOrder)]
    summed = changes(plans)
    assert sum(summed.values()) == 0
    for account_id, account in known.items():
        assert account.amount + summed.get(account_id, Decimal(0)) >= 0
    assert all(plan.balance >= 0 for plan in plans)
