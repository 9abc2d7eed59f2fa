"""What an operator changes while payments go on, and what the service may not have seen of it when.

Within a few seconds of its COMMIT the node knows a change made in SQL. What it could not see any more before it lost
the database it cannot know: until it is back, such a change may count and may not. That is the named exception.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import combinations
from math import inf

# 2 s are promised; the rest is the machine's.
SEEN_SECONDS = 3.0
# As the migrations set them.
FIRST_RATES = {"USD": Decimal("0.01"), "CNY": Decimal("0.02"), "EUR": Decimal("0.03")}


@dataclass
class Change:
    """`started` counts events, as answers do. Where it is not certain that it was made, `ended` is None."""

    started: int
    ended: int | None = field(default=None, kw_only=True)
    # On the monotonic clock.
    ended_at: float = field(default=inf, kw_only=True)

    def is_made_before(self, event: int) -> bool:
        """Whether it certainly was."""
        return self.ended is not None and self.ended < event


@dataclass
class Correction(Change):
    """Money booked in SQL: brought to the account, or taken from it (below 0)."""

    order_id: str
    account_id: int
    amount: Decimal


@dataclass
class Activity(Change):
    """A user deactivated in SQL, or activated again."""

    user_id: int
    is_active: bool


@dataclass
class Rate(Change):
    """A new commission, by the API or in SQL."""

    currency_id: str
    rate: Decimal


@dataclass(frozen=True)
class Outage:
    """In a round that began at a moment (monotonic), the database may have been lost since another."""

    round_began_at: float
    lost_at: float


@dataclass
class Changes:
    """All changes, in the order in which they were made."""

    corrections: list[Correction] = field(default_factory=list)
    activities: list[Activity] = field(default_factory=list)
    rates: list[Rate] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)

    def may_be_unseen(self, change: Change, at: float) -> bool:
        """Whether who answered at a moment may have answered without knowing the change."""
        outage = next((outage for outage in reversed(self.outages) if outage.round_began_at <= at), None)
        return outage is not None and at >= outage.lost_at and change.ended_at > outage.lost_at - SEEN_SECONDS

    def rates_between(self, currency_id: str, started: int, ended: int | None, at: float) -> set[Decimal]:
        """The rates by which an order may be judged that was sent and answered (None: never) at these events."""
        rates = {FIRST_RATES[currency_id]}
        for change in self.rates:
            if change.currency_id == currency_id and (ended is None or change.started < ended):
                if change.is_made_before(started) and not self.may_be_unseen(change, at):
                    rates.clear()
                rates.add(change.rate)
        return rates

    def may_be_inactive(self, user_id: int, started: int, ended: int, at: float) -> bool:
        """Whether a user may be told that they are deactivated."""
        inactive = False
        for change in self.activities:
            if change.user_id == user_id and change.started < ended:
                if not change.is_active:
                    inactive = True
                elif change.is_made_before(started) and not self.may_be_unseen(change, at):
                    inactive = False
        return inactive

    def must_be_inactive(self, user_id: int, started: int, ended: int, at: float) -> bool:
        """Whether a user may not be let in."""
        inactive = False
        for change in self.activities:
            if change.user_id == user_id and change.started < ended:
                if change.is_active:
                    inactive = False
                elif change.is_made_before(started) and not self.may_be_unseen(change, at):
                    inactive = True
        return inactive

    def unseen_corrections(self, account_id: int, at: float) -> list[Correction]:
        """The corrections of an account that who answered at a moment may not have known."""
        return [
            correction
            for correction in self.corrections
            if correction.account_id == account_id and self.may_be_unseen(correction, at)
        ]

    def unseen_sums(self, account_id: int, at: float) -> set[Decimal]:
        """By how much a balance told at a moment may lack what is booked: 0, and the sums of unseen corrections."""
        amounts = [correction.amount for correction in self.unseen_corrections(account_id, at)]
        return {sum(some, Decimal(0)) for some in _subsets(amounts)}


def _subsets(amounts: list[Decimal]) -> Iterator[tuple[Decimal, ...]]:
    for size in range(len(amounts) + 1):
        yield from combinations(amounts, size)
