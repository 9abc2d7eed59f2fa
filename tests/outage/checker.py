"""The checker: what clients were told, against what PostgreSQL has. It shares no code with the service.

The numbers are those of the invariants that it looks after:
1 sums are zero and balances are the sums of their transfers · 2 no ordinary account is negative · 3 payment and
commission together, and all of a bulk that asks for it · 4 acknowledged means booked once (or, accepted offline,
refused and visible), refused means not booked · 5 one order a key, and a retry gets the original receipt · 9 first
accepted, first booked · 10 nobody spends what is not theirs · 11 with one node, what was accepted is never refused, and
the balance told is the one booked.
The others (6 doubt, 7 kills, 8 damage) are the faults themselves, under which all of these must hold.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Any

from psycopg2.extensions import connection as PgConnection  # noqa: N812 - a class with a lower-case name

from .ledger import AccountRow, Ledger, TransferRow, read_ledger
from .load import Answer, Payment

SUPERUSER_ID = 1
SHOWN_MAX = 20
EXPECTED_ANSWERS = {None, 200, 202, 402, 503}
EXPECTED_OF_FOREIGN = {None, 403, 503}


def check(connection: PgConnection, payments: Sequence[Payment], *, nodes: int = 1) -> None:
    """Fails with a list of violations, unless the ledger holds. The payments are all that were ever sent to it.

    With one node no accepted payment may be refused, the order of acceptance is the order of booking, and the balance
    that was told at acceptance is the one that is booked.
    """
    found = violations(read_ledger(connection), payments, nodes=nodes)
    more = f"\n… and {len(found) - SHOWN_MAX} more" if len(found) > SHOWN_MAX else ""
    assert not found, f"{len(found)} violations:\n" + "\n".join(found[:SHOWN_MAX]) + more


def violations(ledger: Ledger, payments: Sequence[Payment], *, nodes: int = 1) -> list[str]:
    """Returns one line for each violation."""
    return [
        *_sums(ledger),
        *_balances(ledger),
        *_negatives(ledger),
        *_commissions(ledger),
        *_receipt_balances(ledger),
        *_Clients(ledger, payments, nodes).violations(),
        *(_OneNode(ledger, payments).violations() if nodes == 1 else ()),
    ]


def _sums(ledger: Ledger) -> Iterator[str]:
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for account in ledger.accounts.values():
        sums[account.currency_id] += account.amount
    for currency_id, amount in sums.items():
        if amount:
            yield f"invariant 1: the balances in {currency_id} sum to {amount}"


def _balances(ledger: Ledger) -> Iterator[str]:
    booked: dict[int, Decimal] = defaultdict(Decimal)
    for transfer in ledger.transfers:
        booked[transfer.from_account_id] -= transfer.amount
        booked[transfer.to_account_id] += transfer.amount
    for account in ledger.accounts.values():
        if account.amount != booked[account.id]:
            yield f"invariant 1: account {account.id} holds {account.amount}, its transfers make {booked[account.id]}"


def _negatives(ledger: Ledger) -> Iterator[str]:
    """In no moment: each balance is followed through the history, in which transfers are numbered under locks."""
    running: dict[int, Decimal] = defaultdict(Decimal)
    for transfer in ledger.transfers:
        running[transfer.from_account_id] -= transfer.amount
        running[transfer.to_account_id] += transfer.amount
        payer = ledger.accounts[transfer.from_account_id]
        # Commission accounts are locked last, after the numbers were given.
        if payer.user_id not in (None, SUPERUSER_ID) and running[payer.id] < 0:
            yield f"invariant 2: account {payer.id} was at {running[payer.id]} after transfer {transfer.id}"
    for account in ledger.accounts.values():
        if account.user_id is not None and account.amount < 0:
            yield f"invariant 2: account {account.id} holds {account.amount}"


def _commissions(ledger: Ledger) -> Iterator[str]:
    by_order: dict[str, list[TransferRow]] = defaultdict(list)
    for transfer in ledger.transfers:
        if transfer.kind in ("payment", "internal", "commission"):
            by_order[transfer.order_id].append(transfer)
    for order_id, transfers in by_order.items():
        paid = [transfer for transfer in transfers if transfer.kind != "commission"]
        if len(paid) != 1:
            yield f"invariant 3: order {order_id} booked {len(paid)} payments"
            continue
        expected = _commission(ledger, paid[0])
        booked = [
            (transfer.from_account_id, transfer.to_account_id, transfer.amount)
            for transfer in transfers
            if transfer.kind == "commission"
        ]
        if booked != expected:
            yield f"invariant 3: order {order_id} booked the commission {booked}, due is {expected}"


def _commission(ledger: Ledger, paid: TransferRow) -> list[tuple[int, int, Decimal]]:
    payer, payee = ledger.accounts[paid.from_account_id], ledger.accounts[paid.to_account_id]
    if payer.user_id in (payee.user_id, SUPERUSER_ID):
        return []
    due = (paid.amount * payer.commission).quantize(Decimal(1).scaleb(-payer.decimals), rounding=ROUND_CEILING)
    return [(payer.id, _commission_account(ledger, payer).id, due)] if due else []


def _commission_account(ledger: Ledger, payer: AccountRow) -> AccountRow:
    candidates = [
        account
        for account in ledger.accounts.values()
        if account.user_id == SUPERUSER_ID and account.currency_id == payer.currency_id
    ]
    return min(candidates, key=lambda account: account.id)


def _receipt_balances(ledger: Ledger) -> Iterator[str]:
    """The balance on the receipt is what the paying account held right after the order's last transfer."""
    running: dict[int, Decimal] = defaultdict(Decimal)
    after: dict[str, tuple[int, Decimal]] = {}
    for transfer in ledger.transfers:
        running[transfer.from_account_id] -= transfer.amount
        running[transfer.to_account_id] += transfer.amount
        after[transfer.order_id] = (transfer.from_account_id, running[transfer.from_account_id])
    for order in ledger.orders.values():
        if order.balance is None or order.id not in after:
            continue
        payer_id, balance = after[order.id]
        if ledger.accounts[payer_id].user_id != SUPERUSER_ID and order.balance != balance:
            yield f"invariant 4: order {order.id} says balance {order.balance}, account {payer_id} had {balance}"


class _Clients:
    """What each client was told, against the ledger. Payments are found by their comment, which is unique."""

    def __init__(self, ledger: Ledger, payments: Sequence[Payment], nodes: int) -> None:
        self._ledger = ledger
        self._nodes = nodes
        self._payments = {payment.comment: payment for payment in payments}
        assert len(self._payments) == len(payments)
        self._by_comment: dict[str, list[TransferRow]] = defaultdict(list)
        self._by_order: dict[str, list[TransferRow]] = defaultdict(list)
        for transfer in ledger.transfers:
            self._by_order[transfer.order_id].append(transfer)
            if transfer.kind in ("payment", "internal"):
                self._by_comment[transfer.comment].append(transfer)
        self._order_ids_by_key = {
            (order.user_id, order.idempotency_key): order.id
            for order in ledger.orders.values()
            if order.idempotency_key
        }

    def violations(self) -> Iterator[str]:
        yield from self._strangers()
        yield from self._parts()
        for payment in self._payments.values():
            yield from self._unexpected(payment)
            yield from self._booked(payment)
            if payment.acknowledgement is not None:
                yield from self._acknowledged(payment, payment.acknowledgement)
            elif payment.refusal is not None:
                yield from self._refused(payment)

    def _strangers(self) -> Iterator[str]:
        for comment, transfers in self._by_comment.items():
            if comment not in self._payments:
                yield f"invariant 4: transfer {transfers[0].id} ({comment!r}) was sent by nobody"
        for (user_id, key), order_id in self._order_ids_by_key.items():
            keys = (payment.payer.id == user_id and payment.key == key for payment in self._payments.values())
            if not self._by_order[order_id] and not any(keys):
                yield f"invariant 4: order {order_id} (key {key!r}) was sent by nobody"

    def _parts(self) -> Iterator[str]:
        """Of what was sent to be booked together or not at all, all or nothing is."""
        bulks = {id(payment.bulk): payment.bulk for payment in self._payments.values() if payment.bulk is not None}
        for bulk in bulks.values():
            booked = [payment.comment for payment in bulk.payments if self._by_comment[payment.comment]]
            if bulk.mode == "all" and 0 < len(booked) < len(bulk.payments):
                sent = [payment.comment for payment in bulk.payments]
                yield f"invariant 3: of {sent}, sent together, {booked} are booked"

    def _unexpected(self, payment: Payment) -> Iterator[str]:
        for answer in payment.answers:
            refused_later = answer.status == 409 and self._is_refused(payment)
            expected = EXPECTED_OF_FOREIGN if payment.is_foreign else EXPECTED_ANSWERS
            if answer.status not in expected and not refused_later:
                yield f"payment {payment.comment} was answered {answer.status}: {answer.body}"

    def _is_refused(self, payment: Payment) -> bool:
        """Whether the ledger shows it as refused at settling."""
        order_id = self._order_ids_by_key.get((payment.payer.id, payment.key)) if payment.key else None
        return order_id is not None and self._ledger.orders[order_id].status == "refused"

    def _booked(self, payment: Payment) -> Iterator[str]:
        """At most once, as it was sent, by its payer, under its key; and never with another's money."""
        booked = self._by_comment[payment.comment]
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
        if payment.outcome is not None and order is not None:
            told = (payment.outcome["status"], payment.outcome["reason"])
            if told != (order.status, order.reason):
                yield f"invariant 4: payment {payment.comment} is shown as {told}, the order is {order}"
        for answer in payment.answers:
            if answer.status == 200:
                yield from self._receipt(payment, answer)
            # Another node may not know what this one has in its journal, and judges by itself.
            tolerated = (None, 409, 503) if self._nodes == 1 else (None, 402, 409, 503)
            if answer.started > first.ended and not (answer.is_acknowledged or answer.status in tolerated):
                yield f"invariant 5: payment {payment.comment} was acknowledged, its retry answered {answer.status}"
        yield from self._one_order(payment)

    def _receipt(self, payment: Payment, answer: Answer) -> Iterator[str]:
        body = answer.body
        rows = [
            {
                "id": row.id,
                "order_id": row.order_id,
                "kind": row.kind,
                "from_account_id": row.from_account_id,
                "to_account_id": row.to_account_id,
                "amount": row.amount,
                "comment": row.comment,
            }
            for row in self._by_order[body["order_id"]]
        ]
        told = [{name: value for name, value in row.items() if name != "timestamp"} for row in body["transfers"]]
        if told != rows or not rows:
            yield f"invariant 4: payment {payment.comment} got the receipt {told}, booked is {rows}"
        order = self._ledger.orders.get(body["order_id"])
        if order is not None and (body["status"], body["balance"]) != (order.status, order.balance):
            yield f"invariant 4: payment {payment.comment} got the receipt {body}, the order is {order}"

    def _one_order(self, payment: Payment) -> Iterator[str]:
        receipts: list[Any] = [answer.body for answer in payment.answers if answer.status == 200]
        if any(receipt != receipts[0] for receipt in receipts):
            yield f"invariant 5: payment {payment.comment} got receipts that differ: {receipts}"
        order_ids = {answer.body["order_id"] for answer in payment.answers if answer.is_acknowledged}
        if len(order_ids) > 1:
            yield f"invariant 5: payment {payment.comment} became the orders {sorted(order_ids)}"

    def _refused(self, payment: Payment) -> Iterator[str]:
        if self._by_comment[payment.comment] or (payment.payer.id, payment.key) in self._order_ids_by_key:
            yield f"invariant 4: payment {payment.comment} was refused and is booked all the same"

    def _refused_later(self, payment: Payment, reason: str | None) -> Iterator[str]:
        if any(answer.status == 200 for answer in payment.answers):
            yield f"invariant 4: payment {payment.comment} was answered 200 and then refused: {reason}"
        if self._by_comment[payment.comment]:
            yield f"invariant 4: payment {payment.comment} is both refused and booked"


class _OneNode:
    """What holds as long as one node alone serves the database."""

    def __init__(self, ledger: Ledger, payments: Sequence[Payment]) -> None:
        self._ledger = ledger
        self._payments = payments
        self._first_transfers = {transfer.order_id: transfer.id for transfer in reversed(ledger.transfers)}

    def violations(self) -> Iterator[str]:
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
            yield f"invariant 11: payment {payment.comment} was accepted and then refused: {order.reason}"
        elif order.balance != answer.body["balance"]:
            told = answer.body["balance"]
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
