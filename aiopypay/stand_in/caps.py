"""The limits of what may be accepted without the database."""

from collections.abc import Sequence
from decimal import Decimal

from aiopypay import errors, money
from aiopypay.ledger import Transfer, TransferOrder
from aiopypay.settings import OfflineSettings


class Caps:
    """The limits of stand-in over a batch: each order counts for those behind it."""

    def __init__(self, limits: OfflineSettings, seconds_down: float, pending: int) -> None:
        self._limits = limits
        self._hours_down = seconds_down / 3600
        self._pending = pending
        # By account, what is to be settled of what it has spent.
        self.debits: dict[int, Decimal] = {}

    def __call__(self, order: TransferOrder, transfers: Sequence[Transfer]) -> None:
        """Raises a 503 of its own type where the order is over a limit; counts it otherwise. Deposits spend nothing."""
        limits = self._limits
        with money.exact():
            paid = _paid(order, transfers)
            debit = self.debits[order.account_id] + paid
        if limits.max_amount is not None and order.amount > limits.max_amount:
            raise errors.OfflineAmountCap(f"Without the database at most {limits.max_amount} are accepted at once.")
        if limits.max_debit is not None and paid and debit > limits.max_debit:
            raise errors.OfflineDebitCap(
                f"Without the database an account may spend {limits.max_debit}; this would be {debit}."
            )
        closed = self.closed()
        if closed is not None:
            raise closed
        self._pending += 1
        self.debits[order.account_id] = debit

    def closed(self) -> errors.Problem | None:
        """Returns what every order would be told, whatever it is; None where one may come."""
        limits = self._limits
        if limits.max_orders is not None and self._pending >= limits.max_orders:
            return errors.OfflineOrdersCap(f"The journal holds {self._pending} orders, as many as it may.")
        if self._hours_down > limits.max_hours:
            return errors.OfflineHoursCap(f"The database has been away for over {limits.max_hours} hours.")
        return None

    def undo(self, order: TransferOrder, transfers: Sequence[Transfer]) -> None:
        """Takes back what was counted."""
        self._pending -= 1
        with money.exact():
            self.debits[order.account_id] -= _paid(order, transfers)


def _paid(order: TransferOrder, transfers: Sequence[Transfer]) -> Decimal:
    """Returns what an order takes from its account. Called where sums are exact."""
    if order.is_deposit:
        return Decimal(0)
    return sum([transfer.amount for transfer in transfers], Decimal(0))
