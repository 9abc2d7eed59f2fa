"""The way back: probe the database until it is really there, settle the journal, go online."""

import asyncio
import logging
import time
from datetime import UTC, datetime, timedelta

import psycopg2

from aiopypay import migrations
from aiopypay.database import Database
from aiopypay.errors import (
    DatabaseBusy,
    DatabaseUnavailable,
    DiskHangs,
    Problem,
    StandInFenced,
    StartError,
    StatementRejected,
)
from aiopypay.stand_in.changes import UserChanges
from aiopypay.stand_in.deputy import Deputy
from aiopypay.stand_in.identity import trouble_with
from aiopypay.stand_in.mode import ModeSwitch
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.settle import BATCH_SIZE, Settlement, SettlingStopped
from aiopypay.stand_in.store import Store
from aiopypay.store.installation import beat

PROBE_SECONDS = 0.5
PROBE_DEADLINE_SECONDS = 1.0
BACKOFF_MAX_SECONDS = 10.0
# What a kill takes at most of the hours that the database has been away.
NOTE_SECONDS = 60.0
READ_ONLY = "25006"

logger = logging.getLogger(__name__)


class Recovery:
    """Runs as long as the service does. `waits_for` says what settling waits for, where it waits."""

    def __init__(
        self,
        database_url: str,
        node: Node,
        deputy: Deputy,
        changes: UserChanges,
        *,
        writers_lock: asyncio.Lock,
        keep_days: int,
    ) -> None:
        # A connection of its own, and no link: this one may touch the database while nobody else does.
        self._database = Database(database_url, connections=1)
        self._database_url = database_url
        self._deputy = deputy
        self._switch: ModeSwitch = deputy.switch
        self._node = node
        self._lock = writers_lock
        self._changes = changes
        self._keep_days = keep_days
        self._settlement = Settlement(self._database, node)
        self._away_noted_at = time.monotonic()
        self.waits_for: str | None = None

    async def run(self) -> None:
        """Brings the service back online each time the database was lost; never returns."""
        while True:
            await self._switch.wait_until_down()
            while not await self._is_back():
                await self._sleep(PROBE_SECONDS)
            self._switch.settling()
            await self._settle_until_online()

    @property
    def refused(self) -> int:
        """How many orders were refused at settling since the process started."""
        return self._settlement.refused

    def close(self) -> None:
        """Closes the connection."""
        self._database.close()

    async def _is_back(self) -> bool:
        try:
            async with self._database.transaction(PROBE_DEADLINE_SECONDS) as connection:
                heartbeat = await beat(connection)
        except StatementRejected as rejected:
            self._wait_for(f"the database has no aiopypay in it, or a broken one (SQLSTATE {rejected.sqlstate})")
            return False
        except Problem as problem:
            if getattr(problem.__cause__, "pgcode", None) == READ_ONLY:
                self._wait_for("the database is read-only: promote it, or connect the primary")
            logger.debug("The database is not back: %s", problem)
            return False
        except Exception:
            # Whatever it is, looking again is all that leads back online.
            logger.exception("The probe failed")
            return False
        # Hangs the disk, this waits with it: nothing can be settled either.
        known = await self._deputy.last_transfer()
        self._deputy.blocked = trouble_with(heartbeat, self._deputy.standing.installation_id, known)
        if self._deputy.blocked is not None:
            self._wait_for(self._deputy.blocked)
            return False
        return heartbeat.newest_migration >= migrations.newest() or await self._migrate()

    async def _migrate(self) -> bool:
        try:
            await asyncio.to_thread(migrations.apply, self._database_url)
        except (StartError, psycopg2.Error) as error:
            self._wait_for(f"migrations could not be applied: {' '.join(str(error).split())}")
            return False
        return True

    async def _settle_until_online(self) -> None:
        backoff = PROBE_SECONDS
        started, settled = time.monotonic(), 0
        while not self._switch.is_up:
            try:
                settled += await self._settle_some()
            except DatabaseUnavailable as unavailable:
                if not isinstance(unavailable, StandInFenced):
                    self._switch.lost(unavailable.detail)
                    return
                self._wait_for(unavailable.detail)
            except (DatabaseBusy, DiskHangs) as passing:
                self._wait_for(passing.detail)
            except SettlingStopped as stopped:
                self._wait_for(str(stopped))
            except StatementRejected as rejected:
                self._wait_for(
                    f"PostgreSQL rejects a statement of settling (SQLSTATE {rejected.sqlstate}); see the log"
                )
            except Exception as error:
                logger.exception("Settling failed")
                self._wait_for(f"{type(error).__name__}: see the log")
            else:
                backoff, self.waits_for = PROBE_SECONDS, None
                continue
            await self._sleep(backoff)
            backoff = min(2 * backoff, BACKOFF_MAX_SECONDS)
        logger.warning("Settled %s orders in %.1f s.", settled, time.monotonic() - started)

    async def _settle_some(self) -> int:
        """Settles a batch; the last one under the writer's lock, so that new orders wait and none is overtaken."""
        if await self._settlement.pending() > BATCH_SIZE:
            return await self._settlement.settle_next()
        # A fenced node goes online all the same: its memory is worth nothing until it is filled anew.
        async with self._lock:
            settled = await self._settlement.settle_next()
            if await self._settlement.pending() == 0:
                if self._node.fenced is None:
                    await self._changes.refresh_before_online(self._database)
                self._deputy.note_online()
                self._switch.online()
                self.waits_for = None
                self._node.post(_prune, datetime.now(UTC) - timedelta(days=self._keep_days))
            return settled

    async def _sleep(self, seconds: float) -> None:
        """Before it looks again; now and then it is kept for how long the database has been away."""
        if time.monotonic() > self._away_noted_at + NOTE_SECONDS:
            self._away_noted_at = time.monotonic()
            self._deputy.note_away()
        await asyncio.sleep(seconds)

    def _wait_for(self, reason: str) -> None:
        if reason != self.waits_for:
            logger.error("Settling waits: %s", reason)
            self.waits_for = reason


def _prune(store: Store, settled_before: datetime) -> None:
    with store.transaction(durable=False):
        store.prune(settled_before)
