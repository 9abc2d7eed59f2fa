"""What PostgreSQL does not take at settling, and the operator's way to end it."""

from collections.abc import Sequence
from dataclasses import dataclass

# Classes of SQLSTATE that speak of an order's own row: of its data, a constraint, or what a trigger raises.
REFUSABLE = ("22", "23", "P0")


@dataclass(frozen=True, slots=True)
class Rejected:
    """Entries, one or those of a group, that PostgreSQL does not take, so that settling waits for the operator."""

    sequences: tuple[int, ...]
    sqlstate: str

    @property
    def is_refusable(self) -> bool:
        """Whether it may be for what they hold; else the database is not as it should be, and refusing is no cure."""
        return self.sqlstate[:2] in REFUSABLE

    def told(self) -> str:
        """Says what settling waits for, and how to go on."""
        first = self.sequences[0]
        what = f"entry {first}" if len(self.sequences) == 1 else f"one of the entries {first} to {self.sequences[-1]}"
        reason = f"PostgreSQL rejects {what} of the journal (SQLSTATE {self.sqlstate}); the log says why"
        if not self.is_refusable:
            return reason
        return (
            f"{reason}. Repair what is in the way, and settling goes on by itself; or refuse what it cannot book: "
            f"python -m aiopypay journal refuse {first} REASON"
        )


class NotAwaited(Exception):
    """The operator refuses an entry that settling does not wait for."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What became of the entries, by their sequences, that the operator refused."""

    refused: Sequence[int]
    posted: Sequence[int]
