"""Who is next: whoever has much waiting leaves most of the writer to those who have little."""

import asyncio

import pytest

from aiopypay.fair_batches import ABOUT_SECONDS, ACTIVE_SECONDS, QUANTUM, REST, FairBatches, Part, Waiting

BATCH = 200
BULK = 1000
Batch = list[Part[list[str], None]]


def cut(item: list[str], size: int) -> tuple[list[str], list[str]] | None:
    """What begins with a capital is whole."""
    return None if item[0].isupper() else (item[:size], item[size:])


class Queue(FairBatches[list[str], None]):
    """Of lists of orders, named by their users; what `all` says is whole."""

    def __init__(self) -> None:
        super().__init__(BATCH, cut, lambda item: self.ids.get(item[0], ()))
        self.ids: dict[str, list[tuple[str, str]]] = {}
        self.now = 100.0

    def add(self, user: str, size: int = 1, *, whole: bool = False) -> Waiting[list[str], None]:
        orders = [f"{user.upper() if whole else user}{number}" for number in range(size)]
        waiting: Waiting[list[str], None] = Waiting(orders, size, asyncio.get_running_loop().create_future())
        self.put(user, waiting, self.now)
        return waiting

    def next(self) -> Batch:
        return self.take(self.now)

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.took(seconds, self.now)


@pytest.fixture
def queue() -> Queue:
    return Queue()


def weights(batch: Batch) -> dict[str, int]:
    """How much each user has of it."""
    found: dict[str, int] = {}
    for part in batch:
        user = part.item[0].rstrip("0123456789").lower()
        found[user] = found.get(user, 0) + len(part.item)
        assert part.weight == len(part.item)
    return found


async def test_nobody_is_cut_or_held_back_alone(queue: Queue) -> None:
    queue.add("crowd", BULK)
    queue.add("crowd", BULK)
    assert weights(queue.next()) == {"crowd": BULK}
    queue.passes(0.2)
    assert weights(queue.next()) == {"crowd": BULK}
    assert not queue
    assert queue.weight == 0


async def test_nor_among_those_who_all_have_much(queue: Queue) -> None:
    for user in ("one", "two", "one", "two"):
        queue.add(user, BULK)
    taken = [weights(queue.next()) for _ in range(4)]
    assert taken == [{"one": BULK}, {"two": BULK}, {"one": BULK}, {"two": BULK}]


async def test_whoever_had_much_in_the_last_batch_is_none_with_little(queue: Queue) -> None:
    queue.add("one", BULK)
    queue.now += ABOUT_SECONDS * 0.9
    queue.next()
    queue.now += ABOUT_SECONDS * 0.9
    queue.add("two", BULK)
    assert weights(queue.next()) == {"two": BULK}


async def test_nor_are_those_who_all_have_little(queue: Queue) -> None:
    for number in range(150):
        queue.add(f"user{number}.", 1)
    assert sum(weights(queue.next()).values()) == 150


async def test_beside_others_one_has_no_more_of_a_batch_than_all_of_them(queue: Queue) -> None:
    crowd = queue.add("crowd", BULK)
    for number in range(80):
        queue.add(f"{number}user")
    batch = queue.next()
    assert weights(batch).pop("crowd") == 80
    assert sum(part.weight for part in batch) == 160
    assert (crowd.weight, queue.weight) == (BULK - 80, BULK - 80)
    assert not batch[0].is_last


async def test_it_then_rests_for_some_time(queue: Queue) -> None:
    queue.add("crowd", BULK)
    queue.add("light")
    assert weights(queue.next()) == {"crowd": QUANTUM, "light": 1}
    queue.passes(0.01)
    assert queue.next() == []
    assert queue.rests_until == pytest.approx(queue.now + REST * 0.01 * QUANTUM / (QUANTUM + 1))
    queue.add("light")
    assert weights(queue.next()) == {"light": 1}
    queue.now = queue.rests_until
    assert weights(queue.next()) == {"crowd": QUANTUM}, "who waits for an answer is still about"


async def test_once_nobody_else_is_about_it_has_all(queue: Queue) -> None:
    queue.add("light")
    queue.next()
    queue.add("crowd", BULK)
    assert weights(queue.next()) == {"crowd": QUANTUM}
    queue.now += ABOUT_SECONDS
    assert weights(queue.next()) == {"crowd": BULK - QUANTUM}


async def test_nobody_rests_for_who_pays_now_and_then(queue: Queue) -> None:
    queue.add("light")
    queue.next()
    queue.passes(0.01)
    queue.now += ACTIVE_SECONDS
    queue.add("crowd", BULK)
    for _ in range(BULK // BATCH):
        assert weights(queue.next()) == {"crowd": BATCH}, "what is larger than a batch is cut, for them to come between"
        queue.passes(0.03)


async def test_the_rest_is_over_with_the_activity_that_it_is_for(queue: Queue) -> None:
    queue.add("light")
    queue.add("crowd", BULK, whole=True)
    queue.add("crowd", BULK, whole=True)
    queue.next()
    queue.next()
    queue.passes(0.4)
    queue.add("light")
    queue.next()
    queue.passes(0.01)
    assert queue.next() == []
    assert queue.rests_until == pytest.approx(queue.now + ACTIVE_SECONDS)
    queue.now = queue.rests_until
    assert weights(queue.next()) == {"crowd": BULK}


async def test_who_waited_for_long_is_active_from_the_answer_on(queue: Queue) -> None:
    queue.add("light")
    queue.add("crowd", BULK)
    queue.now += 2 * ABOUT_SECONDS
    assert weights(queue.next()) == {"light": 1, "crowd": QUANTUM}
    queue.passes(2 * ABOUT_SECONDS)
    assert queue.next() == []


async def test_who_has_much_at_a_time_has_little_at_none(queue: Queue) -> None:
    for user in ("one", "two"):
        queue.add(user, BULK)
    assert weights(queue.next()) == {"one": BULK}
    queue.passes(ABOUT_SECONDS * 0.9)
    queue.now += ABOUT_SECONDS * 0.2
    assert weights(queue.next()) == {"two": BULK}


async def test_what_is_whole_has_its_turn_alone_and_rests(queue: Queue) -> None:
    queue.add("light")
    queue.add("crowd", BULK, whole=True)
    queue.add("crowd", BULK, whole=True)
    assert weights(queue.next()) == {"light": 1}
    queue.add("light")
    assert weights(queue.next()) == {"crowd": BULK}, "it kept its turn"
    queue.passes(0.2)
    for _ in range(3):
        assert weights(queue.next()) == {"light": 1}
        queue.passes(0.01)
        queue.add("light")
    queue.now += REST * 0.2
    assert weights(queue.next()) == {"crowd": BULK}


async def test_many_crowds_share_what_one_would_have(queue: Queue) -> None:
    for number in range(4):
        queue.add(f"{number}crowd", BULK)
    queue.add("light")
    batch = weights(queue.next())
    assert batch.pop("light") == 1
    assert batch == {f"{number}crowd": QUANTUM // 4 for number in range(4)}


async def test_each_users_orders_stay_in_order(queue: Queue) -> None:
    requests, taken = [], []
    for number in range(20):
        requests.append(queue.add("crowd", 50 if number % 3 else 1))
        queue.add("light")
        taken += queue.next()
        queue.passes(0.001)
    queue.now += ABOUT_SECONDS
    while queue:
        taken += queue.next()
    orders = [(requests.index(part.of), order) for part in taken for order in part.item if order.startswith("crowd")]
    expected = [(number, f"crowd{place}") for number in range(20) for place in range(50 if number % 3 else 1)]
    assert orders == expected


async def test_whoever_is_gone_takes_no_room(queue: Queue) -> None:
    queue.add("crowd", BULK).future.cancel()
    queue.add("light")
    assert weights(queue.next()) == {"light": 1}
    assert not queue
    assert queue.weight == 0


async def test_more_than_a_batch_of_those_with_little_take_turns(queue: Queue) -> None:
    for number in range(BATCH + 50):
        queue.add(f"{number}user")
    first = weights(queue.next())
    second = weights(queue.next())
    assert (len(first), len(second)) == (BATCH, 50)
    assert not first.keys() & second.keys()


async def test_two_contents_for_one_id_are_not_in_one_batch(queue: Queue) -> None:
    queue.ids = {"a0": [("key", "one")], "aa0": [("key", "two")], "aaa0": [("key", "two"), ("other", "one")]}
    for request in queue.ids:
        queue.put("user", Waiting([request], 1, asyncio.get_running_loop().create_future()), queue.now)
    queue.add("light")
    assert [part.item for part in queue.next()] == [["a0"], ["light0"]]
    assert [part.item for part in queue.next()] == [["aa0"], ["aaa0"]]


async def test_what_wants_two_contents_by_itself_has_its_turn(queue: Queue) -> None:
    queue.ids = {"user0": [("key", "one"), ("key", "two")]}
    queue.add("user", 3)
    assert weights(queue.next()) == {"user": 3}
