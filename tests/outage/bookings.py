"""Which transfers and orders of the ledger became of what clients sent."""

from collections import defaultdict
from collections.abc import Sequence

from .ledger import Ledger, TransferRow
from .payments import Payment

CASH = ("deposit", "withdrawal")


class Bookings:
    """The ledger by what was sent: payments by their comment, deposits and withdrawals by account and amount."""

    def __init__(self, ledger: Ledger) -> None:
        self._by_name: dict[object, list[TransferRow]] = defaultdict(list)
        self.by_order: dict[str, list[TransferRow]] = defaultdict(list)
        for transfer in ledger.transfers:
            self.by_order[transfer.order_id].append(transfer)
            if transfer.kind in ("payment", "internal"):
                self._by_name[transfer.comment].append(transfer)
            elif transfer.kind in CASH:
                self._by_name[transfer.from_account_id, transfer.to_account_id, transfer.amount].append(transfer)
        self.order_ids_by_key = {
            (order.user_id, order.idempotency_key): order.id
            for order in ledger.orders.values()
            if order.idempotency_key
        }

    def of(self, payment: Payment) -> list[TransferRow]:
        """What was booked of it, without commissions: one transfer, or none."""
        name = name_of(payment)
        return self._by_name.get(name, [])

    def order_id_of(self, payment: Payment) -> str | None:
        """The order that it became, as far as its client was told, or as it is booked."""
        first = payment.acknowledgement
        if first is not None:
            return str(first.body["order_id"])
        booked = self.of(payment)
        return booked[0].order_id if booked else None

    def strangers(self, payments: Sequence[Payment], order_ids: set[str]) -> list[TransferRow]:
        """What is booked and was neither sent by these nor under these ids."""
        sent = {name_of(payment) for payment in payments}
        return [
            transfer
            for name, transfers in self._by_name.items()
            if name not in sent
            for transfer in transfers
            if transfer.order_id not in order_ids
        ]


def name_of(payment: Payment) -> object:
    """What a payment is known by in the ledger."""
    if payment.kind == "transfer":
        return payment.comment
    return payment.from_account_id, payment.to_account_id, payment.amount
