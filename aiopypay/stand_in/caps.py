"""The limits of what may be accepted without the database."""

from collections.abc import Callable, Sequence
from decimal import Decimal

from aiopypay import errors, money
from aiopypay.ledger import Transfer, TransferOrder
from aiopypay.settings import OfflineSettings
from aiopypay.units import UNIT_SIZE_MAX

# Of all orders that the journal may hold, a user may have this part, and one bulk in any case.
USERS_PART = 10


class Caps:
    """The limits of stand-in over a batch: each order counts for those behind it.

    `pending_of` tells how many orders the journal holds of a user, `pending` in all; `free_bytes` is for the operating
    system to say of the node's disk.
    """

    def __init__(
        self,
        limits: OfflineSettings,
        seconds_down: float,
        *,
        pending: int,
        free_bytes: int,
        pending_of: Callable[[int], int] = lambda _: 0,
    ) -> None:
        self._limits = limits
        self._hours_down = seconds_down / 3600
        self._pending = pending
        self._pending_of = pending_of
        self._pending_here: dict[int, int] = {}
        self._free_bytes = free_bytes
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
        closed = self.closed() or self._closed_to(order.user_id)
        if closed is not None:
            raise closed
        self._count(order.user_id, 1)
        self.debits[order.account_id] = debit

    def closed(self) -> errors.Problem | None:
        """Returns what every order would be told, whatever it is; None where one may come."""
        limits = self._limits
        if self._pending >= limits.max_orders:
            return errors.OfflineOrdersCap(f"The journal holds {self._pending} orders, as many as it may.")
        if self._free_bytes < limits.min_free_bytes:
            return errors.OfflineDiskFloor(
                f"Without the database orders are kept on the disk of this node, which has {self._free_bytes >> 20} MiB"
                f" free and must keep {limits.min_free_bytes >> 20} MiB."
            )
        if self._hours_down > limits.max_hours:
            return errors.OfflineHoursCap(f"The database has been away for over {limits.max_hours} hours.")
        return None

    def undo(self, order: TransferOrder, transfers: Sequence[Transfer]) -> None:
        """Takes back what was counted."""
        self._count(order.user_id, -1)
        with money.exact():
            self.debits[order.account_id] -= _paid(order, transfers)

    def _closed_to(self, user_id: int) -> errors.Problem | None:
        of_user = self._pending_of(user_id) + self._pending_here.get(user_id, 0)
        if of_user < max(self._limits.max_orders // USERS_PART, UNIT_SIZE_MAX):
            return None
        return errors.OfflineUserOrdersCap(f"The journal holds {of_user} orders of yours, as many as it may.")

    def _count(self, user_id: int, number: int) -> None:
        self._pending += number
        self._pending_here[user_id] = self._pending_here.get(user_id, 0) + number


def _paid(order: TransferOrder, transfers: Sequence[Transfer]) -> Decimal:
    """Returns what an order takes from its account. Called where sums are exact."""
    if order.is_deposit:
        return Decimal(0)
    return sum([transfer.amount for transfer in transfers], Decimal(0))
