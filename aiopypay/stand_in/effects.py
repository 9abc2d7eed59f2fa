"""What the pending entries of the journal change: by account, kept in memory, derived from the journal alone."""

from collections.abc import Iterable
from decimal import Decimal

from aiopypay import money
from aiopypay.stand_in.records import Entry

_NONE = (Decimal(0), Decimal(0))


class Effects:
    """By account: the sum of all changes, and the sum of the debits (positive), by entries not yet settled.

    Being derived it cannot contradict the journal, and it is right for accounts that become known only later. Changes
    can be undone back to the last `keep`, as the transaction is that they belong to.
    """

    def __init__(self) -> None:
        self._sums: dict[int, tuple[Decimal, Decimal]] = {}
        self._before: dict[int, tuple[Decimal, Decimal]] = {}

    def of(self, account_id: int) -> tuple[Decimal, Decimal]:
        """Returns the changes and the debits of an account."""
        return self._sums.get(account_id, _NONE)

    def add(self, entries: Iterable[Entry]) -> None:
        """Takes entries into account that became pending."""
        self._apply(entries, 1)

    def remove(self, entries: Iterable[Entry]) -> None:
        """Takes entries out of account that were settled."""
        self._apply(entries, -1)

    def keep(self) -> None:
        """Makes the changes so far final."""
        self._before.clear()

    def undo(self) -> None:
        """Takes back the changes since the last `keep`."""
        for account_id, sums in self._before.items():
            self._set(account_id, sums)
        self._before.clear()

    def _apply(self, entries: Iterable[Entry], sign: int) -> None:
        with money.exact():
            for entry in entries:
                for transfer in entry.transfers:
                    amount = sign * transfer.amount
                    self._change(transfer.from_account_id, -amount, amount)
                    if not entry.held:
                        self._change(transfer.to_account_id, amount, Decimal(0))

    def _change(self, account_id: int, change: Decimal, debit: Decimal) -> None:
        sums = self._sums.get(account_id, _NONE)
        self._before.setdefault(account_id, sums)
        self._set(account_id, (sums[0] + change, sums[1] + debit))

    def _set(self, account_id: int, sums: tuple[Decimal, Decimal]) -> None:
        if sums == _NONE:
            self._sums.pop(account_id, None)
        else:
            self._sums[account_id] = sums
