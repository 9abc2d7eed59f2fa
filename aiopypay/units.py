"""What the writer takes as one: an order, or all those of a bulk; and how a batch of them is taken apart. Pure."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar
from uuid import UUID

from aiopypay.idempotency import first_place, ids_of_places
from aiopypay.ledger import TransferOrder

# How many orders are booked together at most.
UNIT_SIZE_MAX = 1000

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class RequestKey:
    """The Idempotency-Key of a whole request.

    `id` is the order's that the key alone would make, and the request's first transfer does; not so where
    `is_a_transfers`, which has it as its own. Between `lowest` and `highest` are the ids of all other places that any
    request under the key may have. `fingerprint` is of this request's content.
    """

    id: UUID
    lowest: UUID
    highest: UUID
    fingerprint: bytes
    is_a_transfers: bool = False


@dataclass(frozen=True, slots=True)
class Authority:
    """That the caller may order this, as it was judged at a time (monotonic). `holds` tells whether it is still so."""

    judged_at: float
    holds: Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Unit:
    """Orders that are judged in their order: in one batch, unless it is `cut` for others.

    Two of one id have the same content where they have a group; they then make one order.
    """

    orders: Sequence[TransferOrder]
    key: RequestKey | None = None
    authority: Authority | None = field(default=None, compare=False)
    # Others of the request were judged before, and may be booked.
    is_rest: bool = field(default=False, compare=False)

    @property
    def identity(self) -> object:
        """What is the same in requests of which only one is judged: key, content and part, if there is a key."""
        if self.key is None:
            return id(self)
        return self.key.id, self.key.fingerprint, self.orders[0].id, len(self.orders)

    def contents(self) -> Sequence[tuple[UUID, bytes]]:
        """Returns the ids that others may have sent as well, each with the content that it has here."""
        keyed = [(order.id, order.fingerprint) for order in self.orders if order.idempotency_key is not None]
        return keyed if self.key is None else [*keyed, (self.key.id, self.key.fingerprint)]

    def cut(self, size: int) -> tuple["Unit", "Unit"] | None:
        """Returns its first orders, so many, and the rest, to be judged later; None where it stays whole.

        Orders that are booked together do; and a request one of whose transfers has the request's key as its own: from
        the others it would look like one that uses the key of a bulk for itself.
        """
        if self.orders[0].group is not None or (self.key is not None and self.key.is_a_transfers):
            return None
        first = Unit(self.orders[:size], self.key, self.authority, self.is_rest)
        return first, Unit(self.orders[size:], self.key, self.authority, is_rest=True)


class Round:
    """As many units as can be judged side by side: what shares an id with those before it is judged after them.

    Two orders with one id and content are one order, unless they belong to different groups, of which one may be
    refused. A request's key counts as an id of it, whether or not one of its orders has it. `later` is what is not
    judged in this round, as units: all of a unit, or those of its orders.
    """

    def __init__(self, units: Sequence[Unit]) -> None:
        self._units = units
        self._taken: dict[UUID, TransferOrder] = {}
        self._keys: set[UUID] = set()
        self._waiting: set[int] = set()
        self.later: list[Unit] = []
        for unit in units:
            if not self._must_wait(unit):
                self._take(unit)
            else:
                self._leave(unit)

    @property
    def orders(self) -> list[TransferOrder]:
        """The orders to judge. Their ids differ, and those of a group stand next to each other."""
        return list(self._taken.values())

    def answers(self, answers: Sequence[Answer], later: Sequence[Sequence[Answer]]) -> list[list[Answer]]:
        """Returns the answers by unit and order, from those to `orders`, and those to the units of `later`."""
        by_id = dict(zip(self._taken, answers, strict=True))
        others = chain.from_iterable(later)
        return [
            [next(others) if id(order) in self._waiting else by_id[order.id] for order in unit.orders]
            for unit in self._units
        ]

    def _must_wait(self, unit: Unit) -> bool:
        """Tells whether the unit is not to be taken apart, and cannot be judged now."""
        others = self._keys
        if unit.key is not None:
            if unit.key.id in self._keys or unit.key.id in self._taken:
                return True
            others = self._keys.copy()
            self._keys.add(unit.key.id)
        elif unit.orders[0].group is None:
            return False
        return any(order.id in self._taken or order.id in others for order in unit.orders)

    def _take(self, unit: Unit) -> None:
        taken = self._taken
        # Of a unit with a key no order has another's: it would wait whole.
        others = self._keys if unit.key is None else ()
        again = [
            order
            for order in unit.orders
            if (others and order.id in others) or not _are_one(taken.setdefault(order.id, order), order)
        ]
        if again:
            self._leave(Unit(again))

    def _leave(self, unit: Unit) -> None:
        self.later.append(unit)
        self._waiting.update(map(id, unit.orders))


def places_of_bulks(orders: Sequence[TransferOrder]) -> dict[UUID, tuple[UUID, UUID]]:
    """Returns, by order, the lowest and the highest of the ids that transfers have of another request under its key.

    Orders without a key are left out; those under a key that no client can have sent, for there is a space in it; and
    those whose key is that of a bulk in this batch: a round holds no order under it that was not sent with the bulk.
    """
    places = {
        order.id: ids_of_places(order.user_id, order.idempotency_key)
        for order in orders
        if order.idempotency_key is not None and " " not in order.idempotency_key
    }
    present = {first_place(order.id) for order in orders} if places else set()
    return {order_id: between for order_id, between in places.items() if between[0] not in present}


def halves(orders: Sequence[TransferOrder]) -> tuple[Sequence[TransferOrder], Sequence[TransferOrder]]:
    """Returns the orders in two parts, neither with a part of a group. The second is empty where there is no cut."""
    middle = len(orders) // 2
    cuts = [cut for cut in range(1, len(orders)) if not are_together(orders[cut - 1], orders[cut])]
    cut = min(cuts, key=lambda cut: abs(cut - middle), default=len(orders))
    return orders[:cut], orders[cut:]


def unlocked(orders: Sequence[TransferOrder], free: set[int]) -> list[TransferOrder]:
    """Returns the orders all of whose accounts are free, and those of each one's group."""
    locked = {order.group for order in orders if order.group is not None and not free.issuperset(order.account_ids)}
    return [order for order in orders if order.group not in locked and free.issuperset(order.account_ids)]


def are_together(one: TransferOrder, other: TransferOrder) -> bool:
    """Tells whether two orders that stand next to each other are booked together or not at all."""
    return one.group is not None and one.group == other.group


def _are_one(one: TransferOrder, other: TransferOrder) -> bool:
    return one is other or (
        one.group == other.group
        and one.fingerprint == other.fingerprint
        # One may be NOBODY's: what its caller may not place does not speak for one who may.
        and one.account_user_id == other.account_user_id
    )
