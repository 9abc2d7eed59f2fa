"""What each client was told, against the ledger: part of the checker."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from .beside import Beside
from .bookings import Bookings
from .ledger import Ledger
from .payments import Answer, Opening, Payment, Read, accounts_path

EXPECTED_ANSWERS = {None, 200, 202, 402, 503}
EXPECTED_OF_FOREIGN = {None, 403, 503}
EXPECTED_OF_READS = {None, 200, 503}
# Of the newcomers' passwords `newcomers.py` knows which one holds.
OF_PASSWORDS = 401

# Of a transfer in a receipt, beside its id and timestamp.
TOLD = ("order_id", "kind", "from_account_id", "to_account_id", "amount", "comment")


class Clients:
    """What each client was told, against the ledger."""

    def __init__(
        self, ledger: Ledger, bookings: Bookings, payments: Sequence[Payment], beside: Beside, nodes: int
    ) -> None:
        self._ledger = ledger
        self._bookings = bookings
        self._beside = beside
        self._nodes = nodes
        self._payments = payments
        self._openings: dict[int, list[Opening]] = defaultdict(list)
        for opening in beside.openings:
            self._openings[opening.person.id].append(opening)
        self._accounts_without_key: dict[int | None, set[int]] = defaultdict(set)
        for account in ledger.accounts.values():
            if account.order_id is None:
                self._accounts_without_key[account.user_id].add(account.id)
        assert len({payment.comment for payment in payments}) == len(payments)

    def violations(self) -> Iterator[str]:
        """Returns one line for each violation."""
        yield from self._strangers()
        yield from self._parts()
        for payment in self._payments:
            yield from self._unexpected(payment)
            yield from self._let_in(payment)
            yield from self._booked(payment)
            if payment.acknowledgement is not None:
                yield from self._acknowledged(payment, payment.acknowledgement)
            elif payment.refusal is not None:
                yield from self._refused(payment)
        for read in self._beside.reads:
            yield from self._read(read)
        for opening in self._beside.openings:
            yield from self._opened(opening)
        yield from self._corrected()
        yield from self._registered()

    def _strangers(self) -> Iterator[str]:
        corrections = {correction.order_id for correction in self._beside.changes.corrections}
        for transfer in self._bookings.strangers(self._payments, corrections):
            yield f"invariant 4: transfer {transfer.id} ({transfer.comment!r}) was sent by nobody"
        keys = {(payment.payer.id, payment.key) for payment in self._payments}
        keys |= {(opening.person.id, opening.key) for opening in self._beside.openings}
        for (user_id, key), order_id in self._bookings.order_ids_by_key.items():
            if order_id not in self._bookings.by_order and (user_id, key) not in keys:
                yield f"invariant 4: order {order_id} (key {key!r}) was sent by nobody"

    def _parts(self) -> Iterator[str]:
        """Of what was sent to be booked together or not at all, all or nothing is."""
        bulks = {id(payment.bulk): payment.bulk for payment in self._payments if payment.bulk is not None}
        for bulk in bulks.values():
            booked = [payment.comment for payment in bulk.payments if self._bookings.of(payment)]
            if bulk.mode == "all" and 0 < len(booked) < len(bulk.payments):
                sent = [payment.comment for payment in bulk.payments]
                yield f"invariant 3: of {sent}, sent together, {booked} are booked"

    def _unexpected(self, payment: Payment) -> Iterator[str]:
        expected = EXPECTED_OF_FOREIGN if payment.is_foreign else EXPECTED_ANSWERS
        for answer in payment.answers:
            refused_later = answer.status == 409 and self._is_refused(payment)
            if answer.status not in expected and not refused_later and not self._kept_out(payment.payer.id, answer):
                yield f"payment {payment.comment} was answered {answer.status}: {answer.body}"

    def _kept_out(self, user_id: int, answer: Answer) -> bool:
        if answer.status == OF_PASSWORDS:
            newcomers = self._beside.newcomers
            return newcomers is not None and any(person.id == user_id for person in newcomers.people)
        changes = self._beside.changes
        return answer.is_of_deactivated and changes.may_be_inactive(
            user_id, answer.started, answer.ended, answer.ended_at
        )

    def _let_in(self, payment: Payment) -> Iterator[str]:
        for answer in payment.answers:
            if answer.is_acknowledged and self._beside.changes.must_be_inactive(
                payment.payer.id, answer.started, answer.ended, answer.ended_at
            ):
                yield (
                    f"invariant 10: payment {payment.comment} of user {payment.payer.id}, who was deactivated, was "
                    f"answered {answer.status}"
                )

    def _is_refused(self, payment: Payment) -> bool:
        """Whether the ledger shows it as refused at settling."""
        order_id = self._bookings.order_ids_by_key.get((payment.payer.id, payment.key)) if payment.key else None
        return order_id is not None and self._ledger.orders[order_id].status == "refused"

    def _booked(self, payment: Payment) -> Iterator[str]:
        """Once, as sent, by its payer, under its key; and never with another's money."""
        booked = self._bookings.of(payment)
        if payment.is_foreign and (booked or payment.acknowledgement is not None):
            yield f"invariant 10: payment {payment.comment} spent what is not {payment.payer.username}'s"
        if len(booked) > 1:
            yield f"invariant 4: payment {payment.comment} was booked {len(booked)} times"
        for transfer in booked:
            sent = (payment.from_account_id, payment.to_account_id, payment.amount)
            if (transfer.from_account_id, transfer.to_account_id, transfer.amount) != sent:
                yield f"invariant 4: payment {payment.comment} was sent as {sent} and booked as {transfer}"
            order = self._ledger.orders.get(transfer.order_id)
            if order is None or (order.user_id, order.idempotency_key) != (payment.payer.id, payment.key):
                yield f"invariant 5: payment {payment.comment} with key {payment.key} was booked by {order}"

    def _acknowledged(self, payment: Payment, first: Answer) -> Iterator[str]:
        order = self._ledger.orders.get(first.body["order_id"])
        if order is None:
            yield f"invariant 4: payment {payment.comment} was acknowledged with {first.status} and is LOST"
        elif order.status == "refused":
            yield from self._refused_later(payment, order.reason)
        elif not self._bookings.of(payment):
            yield f"invariant 4: payment {payment.comment} was acknowledged with {first.status}, its transfer is LOST"
        if payment.outcome is not None and order is not None:
            told = (payment.outcome["status"], payment.outcome["reason"])
            if told != (order.status, order.reason):
                yield f"invariant 4: payment {payment.comment} is shown as {told}, the order is {order}"
        for answer in payment.answers:
            if answer.status == 200:
                yield from self._receipt(payment, answer)
            # Another node may not know what this one has in its journal, and judges by itself.
            tolerated = (409,) if self._nodes == 1 else (402, 409)
            told_otherwise = answer.is_known and not answer.is_acknowledged and answer.status not in tolerated
            if answer.started > first.ended and told_otherwise:
                yield f"invariant 5: payment {payment.comment} was acknowledged, its retry answered {answer.status}"
        yield from self._one_order(payment)

    def _receipt(self, payment: Payment, answer: Answer) -> Iterator[str]:
        body = answer.body
        if payment.kind == "transfer":
            ids = answer.started > self._beside.replayed
            told = [(row["id"] if ids else None, *(row[name] for name in TOLD)) for row in body["transfers"]]
            booked = [
                (row.id if ids else None, *(getattr(row, name) for name in TOLD))
                for row in self._bookings.by_order.get(body["order_id"], ())
            ]
            if told != booked or not booked:
                yield f"invariant 4: payment {payment.comment} got the receipt {told}, booked is {booked}"
        order = self._ledger.orders.get(body["order_id"])
        if order is not None and (body["status"], body["balance"]) != (order.status, order.balance):
            yield f"invariant 4: payment {payment.comment} got the receipt {body}, the order is {order}"

    def _one_order(self, payment: Payment) -> Iterator[str]:
        receipts: list[Any] = [answer.body for answer in payment.answers if answer.status == 200]
        if self._beside.replayed:
            receipts = list(map(_without_ids, receipts))
        if any(receipt != receipts[0] for receipt in receipts):
            yield f"invariant 5: payment {payment.comment} got receipts that differ: {receipts}"
        order_ids = {answer.body["order_id"] for answer in payment.answers if answer.is_acknowledged}
        if len(order_ids) > 1:
            yield f"invariant 5: payment {payment.comment} became the orders {sorted(order_ids)}"

    def _refused(self, payment: Payment) -> Iterator[str]:
        if self._bookings.of(payment) or (payment.payer.id, payment.key) in self._bookings.order_ids_by_key:
            yield f"invariant 4: payment {payment.comment} was refused and is booked all the same"

    def _refused_later(self, payment: Payment, reason: str | None) -> Iterator[str]:
        if any(answer.status == 200 for answer in payment.answers):
            yield f"invariant 4: payment {payment.comment} was answered 200 and then refused: {reason}"
        if self._bookings.of(payment):
            yield f"invariant 4: payment {payment.comment} is both refused and booked"

    def _read(self, read: Read) -> Iterator[str]:
        answer = read.answer
        if answer.status not in EXPECTED_OF_READS and not self._kept_out(read.person.id, answer):
            yield f"GET {read.path} was answered {answer.status}: {answer.body}"
        for account_id in read.balances:
            account = self._ledger.accounts.get(account_id)
            if account is None or account.user_id != read.person.id:
                yield f"invariant 10: GET {read.path} told {read.person.username} of account {account_id}"
        missing = self._must_be_listed(read) - read.balances.keys()
        is_list = answer.status == 200 and read.path == accounts_path(read.person)
        if is_list and missing and self._beside.lists_are_whole:
            yield f"told balances: GET {read.path} does not list the accounts {sorted(missing)} of its user"

    def _must_be_listed(self, read: Read) -> set[int]:
        """The accounts that a user has had since before they asked: those of their registration, and later ones."""
        later: set[int] = set()
        opened: set[int] = set()
        for opening in self._openings[read.person.id]:
            opened |= opening.account_ids
            if any(answer.status == 200 and answer.ended < read.answer.started for answer in opening.answers):
                later |= opening.account_ids
        return self._accounts_without_key[read.person.id] - opened | later

    def _opened(self, opening: Opening) -> Iterator[str]:
        order_id = self._bookings.order_ids_by_key.get((opening.person.id, opening.key))
        opened = {
            account.id
            for account in self._ledger.accounts.values()
            if account.order_id is not None and account.order_id == order_id
        }
        if opening.account_ids and opening.account_ids != opened:
            yield f"invariant 4: key {opening.key} was told to have opened {opening.account_ids}, there are {opened}"
        for answer in opening.answers:
            if answer.status not in EXPECTED_OF_READS and not self._kept_out(opening.person.id, answer):
                yield f"an account with key {opening.key} was answered {answer.status}: {answer.body}"

    def _corrected(self) -> Iterator[str]:
        for correction in self._beside.changes.corrections:
            if correction.ended is not None and correction.order_id not in self._bookings.by_order:
                yield f"invariant 4: the operator's order {correction.order_id} is LOST"

    def _registered(self) -> Iterator[str]:
        for registration in self._beside.newcomers.registrations if self._beside.newcomers else ():
            if registration.answer.status == 201 and registration.username not in self._ledger.usernames:
                yield f"invariant 4: {registration.username} registered and is LOST"
            if registration.answer.status not in (None, 201, 503):
                yield f"{registration.username} was answered {registration.answer.status}: {registration.answer.body}"


def _without_ids(receipt: Any) -> Any:
    """Without what is given anew by a restored database."""
    if "transfers" not in receipt:
        return receipt
    return receipt | {"transfers": [row | {"id": None, "timestamp": None} for row in receipt["transfers"]]}
