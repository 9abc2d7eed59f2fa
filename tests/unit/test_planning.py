"""The rule over a batch: in order of arrival, each order on the balances that the one before left."""

from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from itertools import count
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from aiopypay import errors
from aiopypay.ledger import SUPERUSER_ID, Account, Currency, Transfer, TransferOrder
from aiopypay.planning import PlannedOrder, changes, plan_batch, refused_groups

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


def together(orders: Sequence[TransferOrder], group: int = 7) -> list[TransferOrder]:
    """The same orders, as one group."""
    return [replace(order, group=UUID(int=group)) for order in orders]


def kinds(outcomes: Sequence[PlannedOrder | errors.Problem]) -> list[type]:
    return [type(outcome) for outcome in outcomes]


def test_a_group_that_is_covered_is_planned_as_its_orders_would_be_one_by_one() -> None:
    orders = [pays(1, ALICE, BOB, "50"), pays(2, BOB, CAROL, "40")]
    known = accounts(alice="100", bob="0", carol="0")
    alone = [planned(outcome) for outcome in plan_batch(orders, known, CURRENCIES)]
    grouped = [planned(outcome) for outcome in plan_batch(together(orders), known, CURRENCIES)]
    assert [(plan.transfers, plan.balance) for plan in grouped] == [(plan.transfers, plan.balance) for plan in alone]


def test_of_a_group_with_one_refusal_nothing_is_planned() -> None:
    orders = together([pays(1, ALICE, BOB, "50"), pays(2, ALICE, BOB, "60"), pays(3, ALICE, BOB, "1")])
    outcomes = plan_batch(orders, accounts(alice="100", bob="0"), CURRENCIES)
    assert kinds(outcomes) == [errors.GroupRefused, errors.InsufficientFunds, errors.GroupRefused]
    first = outcomes[0]
    assert isinstance(first, errors.GroupRefused)
    assert str(UUID(int=2)) in first.detail
    assert "Insufficient funds" in first.detail


def test_those_behind_a_refused_group_find_everything_as_if_it_had_not_been_there() -> None:
    group = together([pays(1, ALICE, BOB, "50"), pays(2, CAROL, BOB, "1")])
    behind = [pays(3, ALICE, BOB, "99"), pays(4, BOB, CAROL, "10")]
    known = accounts(alice="100", bob="0", carol="0")
    outcomes = plan_batch([*group, *behind], known, CURRENCIES)
    assert outcomes[2:] == plan_batch(behind, known, CURRENCIES)


def test_two_groups_and_what_stands_between_them_are_judged_apart() -> None:
    orders = [
        *together([pays(1, ALICE, BOB, "10"), pays(2, CAROL, BOB, "1")], group=1),
        pays(3, ALICE, BOB, "10"),
        *together([pays(4, ALICE, BOB, "10"), pays(5, BOB, CAROL, "5")], group=2),
    ]
    outcomes = plan_batch(orders, accounts(alice="100", bob="0", carol="0"), CURRENCIES)
    assert kinds(outcomes) == [errors.GroupRefused, errors.InsufficientFunds, PlannedOrder, PlannedOrder, PlannedOrder]


class Counter:
    """A check that lets so many orders through, and counts what it let through."""

    def __init__(self, most: int) -> None:
        self.counted: list[UUID] = []
        self._most = most

    def __call__(self, order: TransferOrder, transfers: Sequence[Transfer]) -> None:
        if len(self.counted) >= self._most:
            raise errors.OfflineOrdersCap("full")
        self.counted.append(order.id)

    def undo(self, order: TransferOrder, transfers: Sequence[Transfer]) -> None:
        self.counted.remove(order.id)


def test_a_refused_group_is_taken_out_of_the_count_of_the_check() -> None:
    group = together([pays(1, ALICE, BOB, "1"), pays(2, ALICE, BOB, "1"), pays(3, ALICE, BOB, "1")])
    counter = Counter(most=2)
    outcomes = plan_batch([*group, pays(4, ALICE, BOB, "1")], accounts(alice="100", bob="0"), CURRENCIES, counter)
    assert kinds(outcomes) == [errors.GroupRefused, errors.GroupRefused, errors.OfflineOrdersCap, PlannedOrder]
    assert counter.counted == [UUID(int=4)]


def test_a_group_of_which_one_was_answered_with_a_problem_before_is_refused() -> None:
    group = together([pays(1, ALICE, BOB, "1"), pays(2, ALICE, BOB, "1"), pays(3, ALICE, BOB, "1")])
    gone = errors.OrderRefused(UUID(int=2), ALICE, "gone")
    refused = refused_groups(group, {UUID(int=2): gone, UUID(int=3): "posted before"})
    outcomes = plan_batch([group[0]], accounts(alice="100", bob="0"), CURRENCIES, refused=refused)
    assert kinds(outcomes) == [errors.GroupRefused]
    assert refused_groups(group, {UUID(int=3): "posted before"}) == {}
    assert refused_groups([pays(2, ALICE, BOB, "1")], {UUID(int=2): gone}) == {}


PAYMENTS = st.lists(
    st.tuples(PEOPLE, PEOPLE, st.decimals(min_value=Decimal("0.01"), max_value=80, places=2)), min_size=1, max_size=8
)


@given(st.lists(st.tuples(st.booleans(), PAYMENTS), max_size=8))
def test_a_group_is_planned_whole_or_not_at_all_and_the_rest_as_if_refused_groups_had_not_been_sent(
    parts: list[tuple[bool, list[tuple[int, int, Decimal]]]],
) -> None:
    known = accounts(alice="100", bob="50", carol="0")
    numbers = count(1)
    orders: list[TransferOrder] = []
    for place, (is_group, payments) in enumerate(parts):
        part = [pays(next(numbers), *payment[:2], str(payment[2])) for payment in payments]
        orders += together(part, group=place) if is_group else part
    outcomes = plan_batch(orders, known, CURRENCIES)
    by_group = defaultdict(list)
    for order, outcome in zip(orders, outcomes, strict=True):
        if order.group is not None:
            by_group[order.group].append(isinstance(outcome, PlannedOrder))
    assert all(len(set(through)) == 1 for through in by_group.values())
    kept = [order for order in orders if order.group is None or all(by_group[order.group])]
    of_kept = [
        outcome
        for order, outcome in zip(orders, outcomes, strict=True)
        if order.group is None or all(by_group[order.group])
    ]
    alone = plan_batch([replace(order, group=None) for order in kept], known, CURRENCIES)
    assert [balance(outcome) for outcome in alone] == [balance(outcome) for outcome in of_kept]


def balance(outcome: PlannedOrder | errors.Problem) -> Decimal | type:
    return outcome.balance if isinstance(outcome, PlannedOrder) else type(outcome)


def test_an_account_in_an_unknown_currency_is_its_own_orders_trouble() -> None:
    known = accounts(alice="100", bob="0") | {CAROL: Account(CAROL, CAROL, "XTS", Decimal(100))}
    together = [replace(pays(number, ALICE, BOB, "1"), group=UUID(int=9)) for number in (4, 5)]
    orders = [pays(1, ALICE, BOB, "50"), pays(2, CAROL, BOB, "1"), pays(3, ALICE, CAROL, "1"), *together]
    outcomes = plan_batch(orders, known, CURRENCIES)
    assert [type(outcome) for outcome in outcomes] == [
        PlannedOrder,
        errors.NotKnownHere,
        errors.CurrencyMismatch,
        PlannedOrder,
        PlannedOrder,
    ]


def test_what_fails_unforeseen_fails_alone() -> None:
    def check(order: TransferOrder, _: Sequence[Transfer]) -> None:
        if order.id.int == 2:
            raise KeyError(order.account_id)

    class Checking:
        def __call__(self, order: TransferOrder, transfers: Sequence[Transfer]) -> None:
            check(order, transfers)

        def undo(self, order: TransferOrder, transfers: Sequence[Transfer]) -> None:
            """Nothing was counted."""

    orders = [pays(number, ALICE, BOB, "1") for number in (1, 2, 3)]
    outcomes = plan_batch(orders, accounts(alice="100", bob="0"), CURRENCIES, Checking())
    assert [type(outcome) for outcome in outcomes] == [PlannedOrder, errors.InternalError, PlannedOrder]
    assert planned(outcomes[2]).balance == Decimal("97.98")
