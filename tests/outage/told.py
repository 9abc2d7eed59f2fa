"""Balances that were told, against the booked history of each account: all of them must fit one serial order.

An account's history is what its orders made of it, in the order of bookings. A balance that was told must be one of
that history, at a place that lies behind everything acknowledged before the question was put and behind every balance
told before, and ahead of everything sent only after the answer. Of all such places the earliest is taken: it leaves
those that follow the most freedom, so that whoever finds none is wrong in every serial order.
"""

import heapq
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import accumulate

from .bookings import Bookings
from .changes import Changes, Correction
from .ledger import Ledger
from .payments import HELD, Answer, Payment, Read

FAR = 10**12


@dataclass(frozen=True)
class Told:
    """A balance in an answer that names no order."""

    account_id: int
    balance: Decimal
    answer: Answer
    where: str


@dataclass
class _History:
    """What an account held after each of its orders; place 0 is before the first."""

    balances: list[Decimal] = field(default_factory=lambda: [Decimal(0)])
    place_of: dict[str, int] = field(default_factory=dict)
    # When orders were first sent and first acknowledged (events), with their places.
    sent: list[tuple[int, int]] = field(default_factory=list)
    acknowledged: list[tuple[int, int]] = field(default_factory=list)

    def book(self, order_id: str, change: Decimal) -> None:
        if order_id in self.place_of:
            self.balances[-1] += change
        else:
            self.balances.append(self.balances[-1] + change)
            self.place_of[order_id] = len(self.balances) - 1


class ToldBalances:
    """Finds what was told and fits no serial order. `doubtful` are accounts of which nothing can be said."""

    def __init__(
        self,
        ledger: Ledger,
        bookings: Bookings,
        payments: Sequence[Payment],
        changes: Changes,
        doubtful: set[int],
    ) -> None:
        self._changes = changes
        self._doubtful = doubtful
        self._histories: dict[int, _History] = defaultdict(_History)
        self._bookings = bookings
        for transfer in ledger.transfers:
            for account_id, change in (
                (transfer.from_account_id, -transfer.amount),
                (transfer.to_account_id, transfer.amount),
            ):
                if account_id > 0:
                    self._histories[account_id].book(transfer.order_id, change)
        for payment in payments:
            self._place(payment)
        for correction in changes.corrections:
            self._place_correction(correction)

    def violations(self, told: Iterable[Told]) -> Iterator[str]:
        """Returns one line for each balance that cannot have been true."""
        by_account: dict[int, list[Told]] = defaultdict(list)
        for one in told:
            if one.account_id not in self._doubtful:
                by_account[one.account_id].append(one)
        for account_id, all_of_it in by_account.items():
            yield from self._of_account(self._histories[account_id], all_of_it)

    def _place(self, payment: Payment) -> None:
        order_id = self._bookings.order_id_of(payment)
        first = payment.acknowledgement
        sent = min((answer.started for answer in payment.answers), default=0)
        for history, place in self._places(order_id):
            history.sent.append((sent, place))
            if first is not None:
                history.acknowledged.append((first.ended, place))

    def _place_correction(self, correction: Correction) -> None:
        for history, place in self._places(correction.order_id):
            if correction.ended is not None:
                history.acknowledged.append((correction.ended, place))
            # One that comes while the database is away from the node is booked before what was accepted before.
            if not self._changes.may_be_unseen(correction, correction.ended_at):
                history.sent.append((correction.started, place))

    def _places(self, order_id: str | None) -> Iterator[tuple[_History, int]]:
        if order_id is None or order_id not in self._bookings.by_order:
            return
        transfers = self._bookings.by_order[order_id]
        ids = {account_id for row in transfers for account_id in (row.from_account_id, row.to_account_id)}
        for account_id in ids:
            if account_id > 0:
                history = self._histories[account_id]
                yield history, history.place_of[order_id]

    def _of_account(self, history: _History, told: list[Told]) -> Iterator[str]:
        places: dict[Decimal, list[int]] = defaultdict(list)
        for place, balance in enumerate(history.balances):
            places[balance].append(place)
        bounds = _Bounds(history)
        before: list[tuple[int, int]] = []
        latest = 0
        for one in sorted(told, key=lambda one: one.answer.started):
            answer = one.answer
            while before and before[0][0] < answer.started:
                latest = max(latest, heapq.heappop(before)[1])
            earliest = max(latest, bounds.earliest(answer.started))
            missing = self._changes.unseen_sums(one.account_id, answer.ended_at)
            found = [_first(places.get(one.balance + amount, ()), earliest) for amount in missing]
            place = min(found)
            last = bounds.latest(answer.ended)
            if place > last:
                held = history.balances[earliest : min(last, earliest + 3) + 1]
                yield (
                    f"told balances: {one.where} (events {answer.started} to {answer.ended}) told {one.balance} of "
                    f"account {one.account_id}, which then held one of {[str(balance) for balance in held]}"
                    f"{' …' if last > earliest + 3 else ''} (places {earliest} to {last})"
                )
            else:
                heapq.heappush(before, (answer.ended, place))


class _Bounds:
    """Between which places of a history something happened, by what was certainly before and after it."""

    def __init__(self, history: _History) -> None:
        acknowledged, sent = sorted(history.acknowledged), sorted(history.sent)
        self._ended = [event for event, _ in acknowledged]
        self._earliest = [0, *accumulate((place for _, place in acknowledged), max)]
        self._sent = [event for event, _ in sent]
        later = accumulate((place - 1 for _, place in reversed(sent)), min)
        self._latest = [*reversed(list(later)), len(history.balances) - 1]

    def earliest(self, started: int) -> int:
        """The place behind all that was acknowledged before an event."""
        return self._earliest[bisect_left(self._ended, started)]

    def latest(self, ended: int) -> int:
        """The place ahead of all that was sent after an event."""
        return self._latest[bisect_right(self._sent, ended)]


def _first(places: Sequence[int], earliest: int) -> int:
    index = bisect_left(places, earliest)
    return places[index] if index < len(places) else FAR


def told_by(reads: Iterable[Read], payments: Iterable[Payment]) -> Iterator[Told]:
    """All balances that were told, but for those of receipts, which name their order."""
    for read in reads:
        for account_id, balance in read.balances.items():
            yield Told(account_id, balance, read.answer, f"GET {read.path}")
    for payment in payments:
        # What is refused of those that are booked together is refused on what the others had left.
        if payment.bulk is None or payment.bulk.mode == "each":
            yield from _of_refusals(payment)


def _of_refusals(payment: Payment) -> Iterator[Told]:
    for answer in payment.answers:
        if answer.status == 402:
            detail = answer.body["detail"]
            text = detail["message"] if isinstance(detail, dict) else detail
            held = HELD.search(text)
            assert held is not None, text
            yield Told(payment.account_id, Decimal(held[1]), answer, f"the refusal of {payment.comment}")
