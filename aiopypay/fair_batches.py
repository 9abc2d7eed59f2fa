"""Who is next: a queue of many users' requests in which no one of them can keep the others waiting.

While somebody is active who has little to do, those who have much get no more of a batch than all those with little
together, and then leave the writer to them for twice as long as their part of it took. So most of it stays theirs.
Whoever pays now and then is not active in between: then the writer rests for nobody, and only what is larger than a
batch is cut. Where everybody has little, or everybody much, nothing is held back and nothing is cut. Each user's
requests stay in their order. Pure but for the futures of those who wait, of which it asks whether anybody still does.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Whoever has no more than so much waiting has little to do. A batch of so much takes a few milliseconds.
QUANTUM = 32
# For so long somebody is about, and for so long after an answer active: who waits for it before they ask again is not
# in the queue meanwhile.
ABOUT_SECONDS = 1.0
ACTIVE_SECONDS = 0.1
# How much longer than their part of a batch took, those with much rest; a batch that took longer than so long has met
# something else than its size. Beside the writer they use the event loop, too: half of all is to be left.
REST = 2
BATCH_SECONDS_MAX = 0.5


@dataclass(slots=True)
class Waiting(Generic[Item, Result]):
    """A request: what is left of it in the queue, who waits for it, and the outcomes of what was cut off before."""

    item: Item
    weight: int
    future: "asyncio.Future[Result]"
    outcomes: list[Result] = field(default_factory=list)


@dataclass(slots=True)
class Part(Generic[Item, Result]):
    """What a batch has of a request; `is_last` where nothing of it is left in the queue."""

    item: Item
    weight: int
    of: Waiting[Item, Result]
    is_last: bool


Cut = Callable[[Item, int], tuple[Item, Item] | None]
IdsOf = Callable[[Item], Sequence[tuple[Hashable, Hashable]]]


class _Flow(Generic[Item, Result]):
    """One user's requests. Times are monotonic."""

    __slots__ = ("had", "heavy_at", "seen_at", "waiting", "weight")

    def __init__(self) -> None:
        self.waiting: deque[Waiting[Item, Result]] = deque()
        # Of all that wait, and of what was in this user's last batch.
        self.weight = 0
        self.had = 0
        # When anything of it was last put in, taken out or answered, and when so much was that it was much.
        self.seen_at = 0.0
        self.heavy_at = float("-inf")

    def is_heavy(self, now: float) -> bool:
        """Tells whether this user has much waiting, or had a moment ago."""
        return self.weight > QUANTUM or now - self.heavy_at < ABOUT_SECONDS


class FairBatches(Generic[Item, Result]):
    """Hands out batches. `cut` returns the part of an item that has this weight, and the rest; None if it is whole.

    `ids_of` tells what an item is about, with the content that it would have there. Of two of one user's that want
    different contents for one id, only the first is in a batch: judged together, they would make all others wait.
    """

    def __init__(self, batch_size: int, cut: Cut[Item], ids_of: IdsOf[Item]) -> None:
        self._batch_size = batch_size
        self._cut = cut
        self._ids_of = ids_of
        # Everybody who is about; and, in the order of their turns, those of whom something waits.
        self._flows: dict[Hashable, _Flow[Item, Result]] = {}
        self._ring: dict[Hashable, _Flow[Item, Result]] = {}
        # Of whom the last batch has something; what it had in all, and of those who were held back.
        self._served: list[_Flow[Item, Result]] = []
        self._taken = self._taken_of_heavy = 0
        self._looked_at = 0.0
        # The weight of all that wait.
        self.weight = 0
        # Before that nobody is served who has much waiting: while others are active, and as long as they owe it.
        self.rests_until = 0.0
        self._owed_until = 0.0

    def __bool__(self) -> bool:
        """Tells whether anything waits."""
        return bool(self._ring)

    def weight_of(self, user: Hashable) -> int:
        """Returns the weight of what waits of one user."""
        return self._ring[user].weight if user in self._ring else 0

    def put(self, user: Hashable, waiting: Waiting[Item, Result], now: float) -> None:
        """Adds a request behind the others of its user."""
        flow = self._flows.get(user)
        if flow is None:
            flow = self._flows[user] = _Flow()
        if not flow.waiting:
            self._ring[user] = flow
        flow.waiting.append(waiting)
        flow.weight += waiting.weight
        self.weight += waiting.weight
        flow.seen_at = now
        if flow.weight > QUANTUM:
            flow.heavy_at = now

    def take(self, now: float) -> list[Part[Item, Result]]:
        """Returns the next batch: as many as fit, or one alone that is larger; less those whose callers are gone.

        Nothing, where only such wait who are to rest until `rests_until`.
        """
        self._forget(now)
        share = self._share(now)
        self._served = []
        batch: list[Part[Item, Result]] = []
        room, self._taken_of_heavy = self._batch_size, 0
        for user, flow in list(self._ring.items()):
            is_held_back = share is not None and flow.is_heavy(now)
            limit = min(room, share) if share is not None and is_held_back else room
            taken = self._take_of(flow, limit, room, batch, may_cut=is_held_back) if limit else 0
            self._note(user, flow, taken, now)
            self._taken_of_heavy += taken if is_held_back else 0
            room -= taken
            if room <= 0:
                break
        self._taken = self._batch_size - room
        return batch

    def took(self, seconds: float, now: float) -> None:
        """The last batch took so long: whoever was held back in it rests for their part of that."""
        if self._taken_of_heavy:
            self._owed_until = now + REST * min(seconds, BATCH_SECONDS_MAX) * self._taken_of_heavy / self._taken
        for flow in self._served:
            flow.seen_at = now
            if flow.had > QUANTUM:
                flow.heavy_at = now

    def _share(self, now: float) -> int | None:
        """Returns how much of a batch each may have who has much waiting; None where they keep nobody waiting."""
        heavy = sum([flow.is_heavy(now) for flow in self._ring.values()])
        if not heavy:
            return None
        about = [
            flow
            for flow in self._flows.values()
            if (flow.waiting or now - flow.seen_at < ABOUT_SECONDS) and not flow.is_heavy(now)
        ]
        if not about:
            return None
        active_until = ACTIVE_SECONDS + max([now if flow.waiting else flow.seen_at for flow in about])
        if now >= active_until:
            return self._batch_size
        self.rests_until = min(self._owed_until, active_until)
        light = sum([flow.weight or flow.had for flow in about if flow.waiting or now - flow.seen_at < ACTIVE_SECONDS])
        return max(QUANTUM, light) // heavy or 1 if now >= self.rests_until else 0

    def _take_of(
        self, flow: _Flow[Item, Result], limit: int, room: int, batch: list[Part[Item, Result]], *, may_cut: bool
    ) -> int:
        """Moves what is due of one user into the batch; returns its weight."""
        taken = 0
        contents: dict[Hashable, Hashable] = {}
        while flow.waiting:
            first = flow.waiting[0]
            if first.future.done():
                self._drop(flow, first.weight)
                continue
            weight, ids = first.weight, self._ids_of(first.item)
            if taken and any(contents.get(identity, content) != content for identity, content in ids):
                break
            contents.update(ids)
            parts = self._cut(first.item, limit - taken) if may_cut and taken < limit < taken + weight else None
            if parts is not None:
                cut_off, first.item = parts
                first.weight -= limit - taken
                flow.weight -= limit - taken
                self.weight -= limit - taken
                batch.append(Part(cut_off, limit - taken, first, is_last=False))
                return limit
            # What cannot be cut has its turn as a whole, alone where it is larger than a batch.
            is_due = taken + weight <= limit or (not taken and weight <= room and may_cut) or not batch
            if not is_due:
                break
            self._drop(flow, weight)
            batch.append(Part(first.item, weight, first, is_last=True))
            taken += weight
            if taken >= limit:
                break
        return taken

    def _drop(self, flow: _Flow[Item, Result], weight: int) -> None:
        flow.waiting.popleft()
        flow.weight -= weight
        self.weight -= weight

    def _note(self, user: Hashable, flow: _Flow[Item, Result], taken: int, now: float) -> None:
        if taken:
            flow.had, flow.seen_at = taken, now
            self._served.append(flow)
            # Whoever was served is last next time; whoever was not keeps the turn.
            del self._ring[user]
            if flow.waiting:
                self._ring[user] = flow
        elif not flow.waiting:
            del self._ring[user]
        if max(flow.weight, taken) > QUANTUM:
            flow.heavy_at = now

    def _forget(self, now: float) -> None:
        """Forgets, now and then, who is not about any more."""
        if now - self._looked_at > ABOUT_SECONDS:
            self._looked_at = now
            self._flows = {
                user: flow
                for user, flow in self._flows.items()
                if flow.waiting or now - max(flow.seen_at, flow.heavy_at) < ABOUT_SECONDS
            }
