"""The mode of the node: online → (database lost) → stand-in → (database back) → settling → (journal empty) → online."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum

# The longer the database has been away, the less an attempt in a second is worth.
RETRY_SECONDS_MAX = 60
PART_OF_OUTAGE = 10

logger = logging.getLogger(__name__)


class Mode(StrEnum):
    """Whom requests are answered by: the database, the stand-in, or the stand-in while its journal is settled."""

    ONLINE = "online"
    STAND_IN = "stand-in"
    SETTLING = "settling"


class ModeSwitch:
    """The one place that changes the mode. It is the `Link` that all connections of requests share.

    `epoch` counts the times the database was lost: what was read in an earlier epoch is not remembered any more, and no
    connection of an earlier one is used. `servers` are where all connections of this one lead, by database URL.
    """

    def __init__(self) -> None:
        self.mode = Mode.ONLINE
        self.since = datetime.now(UTC)
        self.epoch = 0
        self.servers: dict[str, str] = {}
        self._when_lost: list[Callable[[], None]] = []
        self._up = asyncio.Event()
        self._up.set()
        self._down = asyncio.Event()
        self._down_at: float | None = None
        # In how many seconds the journal is likely to be settled; None while nobody can tell.
        self.settles_in_seconds: float | None = None

    @property
    def retry_after_seconds(self) -> int:
        """In how many seconds it is worth to try again what needs the database."""
        seconds = self.seconds_down / PART_OF_OUTAGE
        if self.mode is Mode.SETTLING and self.settles_in_seconds is not None:
            seconds = self.settles_in_seconds
        return max(1, min(round(seconds), RETRY_SECONDS_MAX))

    @property
    def is_up(self) -> bool:
        """Whether requests may use the database."""
        return self.mode is Mode.ONLINE

    @property
    def seconds_down(self) -> float:
        """For how long this process has been without the database; by the monotonic clock, whatever the date says."""
        return 0.0 if self._down_at is None else time.monotonic() - self._down_at

    def lost(self, reason: str, epoch: int | None = None) -> None:
        """The database did not answer. From now on no request touches it.

        `epoch` is the one in which the attempt began: what began before an outage that is over says nothing new.
        """
        if self.mode is Mode.STAND_IN or epoch not in (None, self.epoch):
            return
        if self._down_at is None:
            self._down_at = time.monotonic()
        self.epoch += 1
        self.settles_in_seconds = None
        self._enter(Mode.STAND_IN)
        self._up.clear()
        self._down.set()
        for callback in self._when_lost:
            callback()
        logger.error("The database is lost (%s). Mode: stand-in.", reason)

    def settling(self) -> None:
        """The database is back; the journal goes first."""
        self._enter(Mode.SETTLING)
        logger.warning("The database is back. Mode: settling.")

    def online(self, servers: dict[str, str] | None = None) -> None:
        """The journal is empty. Called under the writer's lock. `servers`: where it was settled; None: as before."""
        self.servers = self.servers if servers is None else servers
        self._enter(Mode.ONLINE)
        self._down.clear()
        self._up.set()
        self._down_at = None
        logger.warning("Everything accepted is settled. Mode: online.")

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Has this called each time the database is lost. It must not fail."""
        self._when_lost.append(callback)

    async def wait_until_down(self) -> None:
        """Returns once the database is lost."""
        await self._down.wait()

    async def wait_until_up(self) -> None:
        """Returns once the mode is online."""
        await self._up.wait()

    def _enter(self, mode: Mode) -> None:
        self.mode = mode
        self.since = datetime.now(UTC)
