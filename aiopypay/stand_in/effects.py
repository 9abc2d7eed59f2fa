"""What the pending entries of the journal change, by account, and whose they are: in memory, of the journal alone."""

from collections import Counter
from collections.abc import Iterable
from decimal import Decimal

import msgspec

from aiopypay import money
from aiopypay.stand_in.records import Entry

_ZERO = Decimal(0)


class Sums(msgspec.Struct, frozen=True, gc=False):
    """What pending entries change of one account.

    `change` is the sum of all changes, `debit` of the debits alone (positive). `held_credit` and `held_debit`, both
    positive, are the shares of held entries in the change.
    """

    change: Decimal = _ZERO
    debit: Decimal = _ZERO
    held_credit: Decimal = _ZERO
    held_debit: Decimal = _ZERO


_NONE = Sums()


class Effects:
    """By account: the sums of all changes by entries not yet settled.

    Being derived it cannot contradict the journal, and it is right for accounts that become known only later. Changes
    can be undone back to the last `keep`, as the transaction is that they belong to.
    """

    def __init__(self) -> None:
        self._sums: dict[int, Sums] = {}
        self._before: dict[int, Sums] = {}
        # By user, how many there are; and since the last `keep`, how many more.
        self._orders: Counter[int] = Counter()
        self._more: Counter[int] = Counter()

    def orders_of(self, user_id: int) -> int:
        """Returns how many pending entries are this user's."""
        return self._orders[user_id]

    def of(self, account_id: int) -> Sums:
        """Returns what pending entries change of an account."""
        return self._sums.get(account_id, _NONE)

    def touch(self, account_id: int) -> bool:
        """Tells whether a pending entry changes the account, even if all of them together do not."""
        # Amounts are positive: what is touched has a debit, or else credits that nothing takes away.
        return account_id in self._sums

    def add(self, entries: Iterable[Entry]) -> None:
        """Takes entries into account that became pending."""
        self._apply(entries, 1)

    def remove(self, entries: Iterable[Entry]) -> None:
        """Takes entries out of account that were settled."""
        self._apply(entries, -1)

    def keep(self) -> None:
        """Makes the changes so far final."""
        self._before.clear()
        self._more.clear()

    def undo(self) -> None:
        """Takes back the changes since the last `keep`."""
        for account_id, sums in self._before.items():
            self._set(account_id, sums)
        self._before.clear()
        for user_id, number in self._more.items():
            self._count(user_id, -number)
        self._more.clear()

    def _apply(self, entries: Iterable[Entry], sign: int) -> None:
        with money.exact():
            for entry in entries:
                self._more[entry.order.user_id] += sign
                self._count(entry.order.user_id, sign)
                for transfer in entry.transfers:
                    amount = sign * transfer.amount
                    self._debit(transfer.from_account_id, amount, is_held=entry.held)
                    self._credit(transfer.to_account_id, amount, is_held=entry.held)

    def _count(self, user_id: int, number: int) -> None:
        self._orders[user_id] += number
        if not self._orders[user_id]:
            del self._orders[user_id]

    def _debit(self, account_id: int, amount: Decimal, *, is_held: bool) -> None:
        sums = self._of(account_id)
        held = sums.held_debit + amount if is_held else sums.held_debit
        self._set(account_id, Sums(sums.change - amount, sums.debit + amount, sums.held_credit, held))

    def _credit(self, account_id: int, amount: Decimal, *, is_held: bool) -> None:
        sums = self._of(account_id)
        held = sums.held_credit + amount if is_held else sums.held_credit
        self._set(account_id, Sums(sums.change + amount, sums.debit, held, sums.held_debit))

    def _of(self, account_id: int) -> Sums:
        """Returns what is to be changed, kept as it was for an undo."""
        sums = self._sums.get(account_id, _NONE)
        self._before.setdefault(account_id, sums)
        return sums

    def _set(self, account_id: int, sums: Sums) -> None:
        if sums == _NONE:
            self._sums.pop(account_id, None)
        else:
            self._sums[account_id] = sums
