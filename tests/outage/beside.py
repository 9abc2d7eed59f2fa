"""What happened beside the payments of a test, for the checker."""

from dataclasses import dataclass, field

from .changes import Changes
from .newcomers import Newcomers
from .payments import Opening, Read


@dataclass
class Beside:
    """Reads, openings of accounts, newcomers, and what an operator did.

    `replayed` is the event (0: never) at which everything was booked again into a restored database, under the same
    orders and with other ids of transfers. `lists_are_whole`: accounts must be listed once they were told to be there.
    """

    reads: list[Read] = field(default_factory=list)
    openings: list[Opening] = field(default_factory=list)
    newcomers: Newcomers | None = None
    changes: Changes = field(default_factory=Changes)
    replayed: int = 0
    lists_are_whole: bool = True
