"""What the writer takes as one: which orders are one order, which units wait for the next round, where to cut."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from aiopypay.idempotency import ids_of_places
from aiopypay.ledger import NOBODY, TransferOrder
from aiopypay.store.keys import used_by_bulks
from aiopypay.units import RequestKey, Round, Unit, are_together, halves, places_of_bulks, unlocked


def placed(number: int, content: str = "", group: int | None = None, account: int = 4) -> TransferOrder:
    """An order with the id of this number."""
    together = None if group is None else UUID(int=group)
    return TransferOrder(UUID(int=number), 2, account, 7, Decimal(1), None, content.encode(), group=together)


def unit(*orders: TransferOrder, key: int | None = None) -> Unit:
    return Unit(orders, None if key is None else RequestKey(UUID(int=key), UUID(int=0), UUID(int=0), b"whole"))


def answered(units: Sequence[Unit]) -> list[list[str]]:
    """Which round answers each order: "1", "2", …"""
    return _answered(units, 1)


def _answered(units: Sequence[Unit], number: int) -> list[list[str]]:
    this = Round(units)
    assert this.orders
    later = _answered(this.later, number + 1) if this.later else []
    return this.answers([str(number)] * len(this.orders), later)


def test_what_has_nothing_in_common_is_judged_in_one_round() -> None:
    units = [unit(placed(1)), unit(placed(2), placed(3)), unit(placed(4, group=9), placed(5, group=9))]
    this = Round(units)
    assert [order.id.int for order in this.orders] == [1, 2, 3, 4, 5]
    assert this.later == []
    assert this.answers("abcde", []) == [["a"], ["b", "c"], ["d", "e"]]


def test_two_orders_of_one_id_and_content_are_one_order() -> None:
    assert answered([unit(placed(1, "x")), unit(placed(1, "x"), placed(2))]) == [["1"], ["1", "1"]]
    assert answered([unit(placed(1, "x"), placed(1, "x"))]) == [["1", "1"]]
    assert answered([unit(placed(1, "x", group=9), placed(1, "x", group=9))]) == [["1", "1"]]


def test_another_content_under_one_id_is_judged_later() -> None:
    assert answered([unit(placed(1, "x")), unit(placed(1, "y"))]) == [["1"], ["2"]]
    assert answered([unit(placed(1, "x"), placed(1, "y"), placed(1, "x"), placed(2))]) == [["1", "2", "1", "1"]]


def test_who_may_not_place_an_order_does_not_speak_for_who_may() -> None:
    may, may_not = placed(1, "x"), structs.replace(placed(1, "x"), account_user_id=NOBODY)
    assert answered([unit(may_not), unit(may), unit(may_not)]) == [["1"], ["2"], ["1"]]


def test_a_group_waits_whole_where_one_of_it_is_placed_already() -> None:
    group = unit(placed(2, group=9), placed(1, group=9), placed(3, group=9))
    assert answered([unit(placed(1)), group, unit(placed(3))]) == [["1"], ["2", "2", "2"], ["1"]]


def test_what_is_in_a_group_is_not_the_same_order_outside_of_it() -> None:
    group = unit(placed(1, group=9), placed(2, group=9))
    assert answered([group, unit(placed(1))]) == [["1", "1"], ["2"]]
    assert answered([group, unit(placed(2, group=8), placed(3, group=8))]) == [["1", "1"], ["2", "2"]]


def test_a_request_waits_whole_where_its_key_is_in_use() -> None:
    first, second = unit(placed(1), placed(2), key=100), unit(placed(3), placed(4), key=100)
    assert answered([first, second]) == [["1", "1"], ["2", "2"]]
    assert answered([first, replace(first, orders=[placed(1), placed(2)])]) == [["1", "1"], ["2", "2"]]
    assert answered([unit(placed(100)), first]) == [["1"], ["2", "2"]]
    assert answered([first, unit(placed(3), key=101)]) == [["1", "1"], ["1"]]


def test_the_key_of_a_request_that_waits_is_kept_for_it() -> None:
    waiting, behind = unit(placed(1), placed(2), key=100), unit(placed(3), key=100)
    assert answered([unit(placed(1)), waiting, behind]) == [["1"], ["2", "2"], ["3"]]


def test_an_order_waits_where_a_request_has_its_key() -> None:
    request = unit(placed(1), placed(2), key=100)
    assert answered([request, unit(placed(100))]) == [["1", "1"], ["2"]]
    assert answered([request, unit(placed(3), placed(100), placed(4))]) == [["1", "1"], ["1", "2", "1"]]
    assert answered([request, unit(placed(3, group=9), placed(100, group=9))]) == [["1", "1"], ["2", "2"]]
    assert answered([request, unit(placed(3), placed(100), key=101)]) == [["1", "1"], ["2", "2"]]
    assert answered([unit(placed(100), placed(2), key=100)]) == [["1", "1"]]


def test_the_places_of_other_requests_under_a_key() -> None:
    lowest, highest = ids_of_places(2, "k")
    alone = structs.replace(placed(1), idempotency_key="k")
    in_bulk = structs.replace(placed(lowest.int + 1), idempotency_key="k 1")
    assert places_of_bulks([alone, placed(3)]) == {alone.id: (lowest, highest)}
    assert places_of_bulks([alone, in_bulk]) == places_of_bulks([in_bulk]) == {}


UNITS = st.lists(
    st.tuples(st.booleans(), st.lists(st.tuples(st.integers(1, 6), st.sampled_from("xy")), min_size=1, max_size=4)),
    min_size=1,
    max_size=6,
)


@given(UNITS)
def test_every_order_is_answered_once_and_a_group_in_one_round(
    drawn: list[tuple[bool, list[tuple[int, str]]]],
) -> None:
    units = []
    for number, (is_group, orders) in enumerate(drawn):
        # In a group one id has one content.
        contents = dict(orders) if is_group else {}
        group = number if is_group else None
        units.append(unit(*(placed(order, contents.get(order, content), group) for order, content in orders)))
    answers = answered(units)
    assert [len(told) for told in answers] == [len(one.orders) for one in units]
    for told, one in zip(answers, units, strict=True):
        if one.orders[0].group is not None:
            assert len(set(told)) == 1


def test_orders_are_cut_in_the_middle() -> None:
    orders = [placed(number) for number in range(5)]
    assert halves(orders) == (orders[:2], orders[2:])


def test_a_group_is_not_cut() -> None:
    group = [placed(number, group=9) for number in range(4)]
    before, behind = placed(10), placed(11)
    assert halves([before, *group, behind]) == ([before], [*group, behind])
    assert halves([*group, before, behind]) == (group, [before, behind])
    assert halves(group) == (group, [])
    assert halves([before]) == ([before], [])


def test_a_unit_is_cut_where_its_orders_do_not_need_each_other() -> None:
    first, rest = unit(placed(1), placed(2), placed(3), key=1).cut(2) or (None, None)
    assert first is not None
    assert rest is not None
    assert ([order.id.int for order in first.orders], first.is_rest) == ([1, 2], False)
    assert ([order.id.int for order in rest.orders], rest.is_rest) == ([3], True)
    assert first.key == rest.key
    assert unit(placed(1, group=9), placed(2, group=9)).cut(1) is None


def test_nor_is_one_cut_that_has_its_key_for_a_transfer_of_its_own() -> None:
    """What is left of it alone, after the others are booked, would be refused as another use of the bulk's key."""
    key, user_id = "rent", 2
    lowest, highest = ids_of_places(user_id, key)
    other = structs.replace(placed(0), id=lowest, user_id=user_id, idempotency_key=f"{key} 0", fingerprint=b"whole")
    own = structs.replace(placed(1, "own"), user_id=user_id, idempotency_key=key)
    assert used_by_bulks([other, own], places_of_bulks([other, own]), {}) == []
    assert used_by_bulks([own], places_of_bulks([own]), {other.id: other}) == [own.id]
    request_key = RequestKey(own.id, lowest, highest, b"whole", is_a_transfers=True)
    assert Unit([other, own], request_key).cut(1) is None


@given(st.lists(st.sampled_from([None, 1, 2, 3]), min_size=1, max_size=12))
def test_both_halves_together_are_all_and_whole(groups: list[int | None]) -> None:
    groups.sort(key=lambda group: group or 0)
    orders = [placed(number, group=group) for number, group in enumerate(groups)]
    first, second = halves(orders)
    assert [*first, *second] == orders
    assert first
    assert not second or not are_together(first[-1], second[0])


def test_a_group_with_a_locked_account_is_locked() -> None:
    group = [placed(1, group=9), placed(2, group=9, account=5)]
    others = [placed(3), placed(4, account=5)]
    assert unlocked([*group, *others], {4, 7}) == [others[0]]
    assert unlocked([*group, *others], {4, 5, 7}) == [*group, *others]
