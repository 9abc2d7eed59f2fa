"""The checker: what clients were told, against what PostgreSQL has. It shares no code with the service.

The numbers are those of the invariants that it looks after:
1 sums are zero and balances are the sums of their transfers · 2 no ordinary account is negative · 3 payment and
commission together, by a rate that held, and all of a bulk that asks for it · 4 acknowledged means booked once (or,
accepted offline, refused and visible), refused means not booked · 5 one order a key, and a retry gets the original
receipt · 9 first accepted, first booked · 10 nobody spends what is not theirs, and nobody who is deactivated spends ·
11 with one node, what was accepted is never refused, and the balance told is the one booked, but for what an operator's
SQL explains that came too late to be seen.
Balances that were told otherwise (reads, refusals) must fit one serial order: `told.py`.
The others (6 doubt, 7 kills, 8 damage) are the faults themselves, under which all of these must hold.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from decimal import ROUND_CEILING, Decimal

from psycopg2.extensions import connection as PgConnection  # noqa: N812 - a class with a lower-case name

from .beside import Beside
from .bookings import Bookings
from .ledger import AccountRow, Ledger, TransferRow, read_ledger
from .newcomers import password_violations
from .one_node import OneNode, excused_refusals
from .payments import Payment
from .told import ToldBalances, told_by
from .what_clients_know import Clients

SUPERUSER_ID = 1
SHOWN_MAX = 20


def check(
    connection: PgConnection, payments: Sequence[Payment], *, nodes: int = 1, beside: Beside | None = None
) -> None:
    """Fails with a list of violations, unless the ledger holds. The payments are all that were ever sent to it.

    With one node no accepted payment may be refused, the order of acceptance is the order of booking, and the balance
    that was told at acceptance is the one that is booked. `beside` is what happened beside the payments.
    """
    found = violations(read_ledger(connection), payments, nodes=nodes, beside=beside)
    more = f"\n… and {len(found) - SHOWN_MAX} more" if len(found) > SHOWN_MAX else ""
    assert not found, f"{len(found)} violations:\n" + "\n".join(found[:SHOWN_MAX]) + more


def violations(
    ledger: Ledger, payments: Sequence[Payment], *, nodes: int = 1, beside: Beside | None = None
) -> list[str]:
    """Returns one line for each violation."""
    known = beside or Beside()
    bookings = Bookings(ledger)
    found = [
        *_sums(ledger),
        *_balances(ledger),
        *_negatives(ledger),
        *_Commissions(ledger, bookings, payments, known if beside else None).violations(),
        *_receipt_balances(ledger, nodes),
        *Clients(ledger, bookings, payments, known, nodes).violations(),
    ]
    if nodes == 1:
        excused, doubtful = excused_refusals(ledger, payments, known.changes)
        told = ToldBalances(ledger, bookings, payments, known.changes, doubtful)
        found += OneNode(ledger, bookings, payments, known.changes, excused, doubtful).violations()
        found += told.violations(told_by(known.reads, payments))
    if known.newcomers is not None:
        found += password_violations(known.newcomers.logins, known.newcomers.changes)
    return found


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


class _Commissions:
    """Payment and commission together, by a rate that held between the sending of the order and its acceptance."""

    def __init__(self, ledger: Ledger, bookings: Bookings, payments: Sequence[Payment], beside: Beside | None) -> None:
        self._ledger = ledger
        self._beside = beside
        self._payments = {bookings.order_id_of(payment): payment for payment in payments}
        superusers = sorted(account.id for account in ledger.accounts.values() if account.user_id == SUPERUSER_ID)
        self._commission_accounts = {ledger.accounts[its].currency_id: its for its in reversed(superusers)}

    def violations(self) -> Iterator[str]:
        by_order: dict[str, list[TransferRow]] = defaultdict(list)
        for transfer in self._ledger.transfers:
            if transfer.kind in ("payment", "internal", "commission"):
                by_order[transfer.order_id].append(transfer)
        for order_id, transfers in by_order.items():
            paid = [transfer for transfer in transfers if transfer.kind != "commission"]
            if len(paid) != 1:
                yield f"invariant 3: order {order_id} booked {len(paid)} payments"
                continue
            expected = self._due(paid[0])
            booked = [
                (transfer.from_account_id, transfer.to_account_id, transfer.amount)
                for transfer in transfers
                if transfer.kind == "commission"
            ]
            if booked not in expected:
                yield f"invariant 3: order {order_id} booked the commission {booked}, due is one of {expected}"

    def _due(self, paid: TransferRow) -> list[list[tuple[int, int, Decimal]]]:
        payer, payee = (self._ledger.accounts[account_id] for account_id in (paid.from_account_id, paid.to_account_id))
        if payer.user_id in (payee.user_id, SUPERUSER_ID):
            return [[]]
        to_id = self._commission_accounts[payer.currency_id]
        unit = Decimal(1).scaleb(-payer.decimals)
        amounts = (
            (paid.amount * rate).quantize(unit, rounding=ROUND_CEILING) for rate in sorted(self._rates(paid, payer))
        )
        return [[(payer.id, to_id, due)] if due else [] for due in amounts]

    def _rates(self, paid: TransferRow, payer: AccountRow) -> set[Decimal]:
        payment = self._payments.get(paid.order_id)
        if self._beside is None or payment is None:
            return {payer.commission}
        first = payment.acknowledgement
        sent = min(answer.started for answer in payment.answers)
        last = max(answer.ended_at for answer in payment.answers) if first is None else first.ended_at
        ended = None if first is None else first.ended
        return self._beside.changes.rates_between(payer.currency_id, sent, ended, last)


def _receipt_balances(ledger: Ledger, nodes: int) -> Iterator[str]:
    """The balance on the receipt is what the account that it is about held right after the order's last transfer."""
    running: dict[int, Decimal] = defaultdict(Decimal)
    after: dict[str, tuple[int, Decimal]] = {}
    for transfer in ledger.transfers:
        running[transfer.from_account_id] -= transfer.amount
        running[transfer.to_account_id] += transfer.amount
        account_id = transfer.to_account_id if transfer.from_account_id < 0 else transfer.from_account_id
        after[transfer.order_id] = (account_id, running[account_id])
    for order in ledger.orders.values():
        if order.balance is None or order.id not in after:
            continue
        account_id, balance = after[order.id]
        # Where several nodes write, commission accounts are changed after the numbers were given.
        is_exact = nodes == 1 or ledger.accounts[account_id].user_id != SUPERUSER_ID
        if is_exact and order.balance != balance:
            yield f"invariant 4: order {order.id} says balance {order.balance}, account {account_id} had {balance}"
