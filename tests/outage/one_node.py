"""What holds as long as one node alone serves the database: part of the checker."""

from collections.abc import Iterator, Sequence, Set

from .bookings import Bookings
from .changes import Changes
from .ledger import Ledger
from .payments import Answer, Payment


class OneNode:
    """Nothing that was accepted is refused, what was told of it is what is booked, and in its order.

    `excused` are the orders refused for what an operator did too late to be seen, `doubtful` the accounts whose
    balance was told wrong for it.
    """

    def __init__(
        self,
        ledger: Ledger,
        bookings: Bookings,
        payments: Sequence[Payment],
        changes: Changes,
        excused: Set[str],
        doubtful: Set[int],
    ) -> None:
        self._ledger = ledger
        self._payments = payments
        self._changes = changes
        self._excused = excused
        self._doubtful = doubtful
        self._first_transfers = {order_id: rows[0].id for order_id, rows in bookings.by_order.items()}

    def violations(self) -> Iterator[str]:
        """Returns one line for each violation."""
        for payment in self._payments:
            for answer in payment.answers:
                if answer.status == 202:
                    yield from self._promise(payment, answer)
        yield from self._order()

    def _promise(self, payment: Payment, answer: Answer) -> Iterator[str]:
        order = self._ledger.orders.get(answer.body["order_id"])
        if order is None:
            return
        if order.status == "refused":
            if order.id not in self._excused:
                yield f"invariant 11: payment {payment.comment} was accepted and then refused: {order.reason}"
        elif payment.account_id not in self._doubtful and order.balance is not None:
            told = answer.body["balance"]
            if order.balance - told not in self._changes.unseen_sums(payment.account_id, answer.ended_at):
                yield f"invariant 11: payment {payment.comment} was told the balance {told}, booked is {order.balance}"

    def _order(self) -> Iterator[str]:
        """Who was accepted before another one asked at all is booked before that one."""
        accepted: list[tuple[int, int, str]] = []
        asked: list[tuple[int, int, str]] = []
        for payment in self._payments:
            first = payment.acknowledgement
            transfer_id = self._first_transfers.get(first.body["order_id"]) if first else None
            if first is not None and transfer_id is not None:
                accepted.append((first.ended, transfer_id, payment.comment))
                asked.append((min(answer.started for answer in payment.answers), transfer_id, payment.comment))
        waiting = iter(sorted(accepted))
        following = next(waiting, None)
        latest, overtaken = 0, ""
        for started, transfer_id, comment in sorted(asked):
            while following is not None and following[0] < started:
                if following[1] > latest:
                    latest, overtaken = following[1:]
                following = next(waiting, None)
            if transfer_id < latest:
                yield f"invariant 9: payment {comment} was booked before {overtaken}, which had been accepted before"


def excused_refusals(ledger: Ledger, payments: Sequence[Payment], changes: Changes) -> tuple[set[str], set[int]]:
    """Returns the orders that were accepted and then refused because money was taken in SQL too late to be seen, or
    because of such a refusal; and the accounts whose balance was told wrong for them.
    """
    refused = [
        (payment, payment.accepted)
        for payment in payments
        if payment.accepted is not None
        and (order := ledger.orders.get(payment.accepted.body["order_id"])) is not None
        and order.status == "refused"
    ]
    excused: set[str] = set()
    doubtful: set[int] = set()
    # A refused payment leaves whom it would have paid with less than they were told, and so on.
    before = -1
    while before < len(excused):
        before = len(excused)
        for payment, accepted in refused:
            taken = any(
                correction.amount < 0
                for correction in changes.unseen_corrections(payment.account_id, accepted.ended_at)
            )
            together = [payment] if payment.bulk is None or payment.bulk.mode == "each" else payment.bulk.payments
            if taken or any(one.account_id in doubtful for one in together):
                excused.update(one.accepted.body["order_id"] for one in together if one.accepted is not None)
                doubtful.update(account_id for one in together for account_id in _accounts(one))
                # The commission would have been the superuser's.
                doubtful.update((1, 2, 3))
    return excused, doubtful


def _accounts(payment: Payment) -> tuple[int, int]:
    return payment.from_account_id, payment.to_account_id
