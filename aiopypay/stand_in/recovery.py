"""The way back: probe the database until it is really there, settle the journal, go online."""

import asyncio
import contextlib
import logging
import time
from datetime import UTC, datetime, timedelta

import psycopg2

from aiopypay import migrations
from aiopypay.addresses import at_server
from aiopypay.database import Database
from aiopypay.errors import (
    DatabaseBusy,
    DatabaseUnavailable,
    DatabaseUnfit,
    DiskHangs,
    Problem,
    StandInFenced,
    StartError,
    StatementRejected,
)
from aiopypay.stand_in.changes import UserChanges
from aiopypay.stand_in.decisions import Decisions
from aiopypay.stand_in.deputy import Deputy
from aiopypay.stand_in.elsewhere import ChangesElsewhere
from aiopypay.stand_in.identity import trouble_with
from aiopypay.stand_in.mode import Mode, ModeSwitch
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.rejected import NotAwaited, Refusal
from aiopypay.stand_in.settle import BATCH_SIZE, Settlement, SettlingStopped
from aiopypay.stand_in.store import Store
from aiopypay.store.installation import Heartbeat, beat
from aiopypay.store.schema import has_schema
from aiopypay.translation import ServerUnproven, one_line

PROBE_SECONDS = 0.5
PROBE_DEADLINE_SECONDS = 1.0
BACKOFF_MAX_SECONDS = 10.0
# What a kill takes at most of the hours that the database has been away.
NOTE_SECONDS = 60.0
READ_ONLY = "25006"
INSUFFICIENT_PRIVILEGE = "42501"

logger = logging.getLogger(__name__)


class Recovery:
    """Runs as long as the service does. `waits_for` says what settling waits for, where it waits."""

    def __init__(
        self,
        database_url: str,
        node: Node,
        deputy: Deputy,
        changes: UserChanges,
        elsewhere: ChangesElsewhere,
        *,
        migration_url: str,
        service_role: str | None,
        writers_lock: asyncio.Lock,
        keep_days: int,
    ) -> None:
        # A connection of its own, and no link: this one may touch the database while nobody else does.
        self._database = Database(database_url, connections=1)
        self._database_url = database_url
        self._migration_url = migration_url
        self._service_role = service_role
        self._deputy = deputy
        self._switch: ModeSwitch = deputy.switch
        self._node = node
        self._lock = writers_lock
        self._changes = changes
        self._elsewhere = elsewhere
        self._keep_days = keep_days
        self._settlement = Settlement(self._database, node, deputy.moments, elsewhere)
        self.decisions = Decisions(
            self._database, node, deputy, elsewhere, is_ready=self._is_ready, wait_for=self._wait_for
        )
        self._away_noted_at = time.monotonic()
        self._refused = asyncio.Event()
        self.waits_for: str | None = None

    async def refuse(self, sequence: int, reason: str) -> Refusal:
        """Refuses what settling waits for, as `Settlement.refuse` does, and has it go on at once."""
        if self._switch.mode is not Mode.SETTLING:
            raise NotAwaited("Nothing is settled at this moment; /health says what this node waits for.")
        refusal = await self._settlement.refuse(sequence, reason)
        self._refused.set()
        return refusal

    async def run(self) -> None:
        """Brings the service back online each time the database was lost; never returns."""
        while True:
            await self._switch.wait_until_down()
            # The server that was lost may be well again; but what is connected to it may be dead, or to what it was.
            self._database.renew(first=self._switch.servers.get(self._database_url))
            while not await self._is_back():
                # Nor may one that does not do keep the probe from those that would; but what is decided about stays.
                if not self.decisions.is_under_way and not self._deputy.moments.is_final:
                    self._database.renew()
                await self._sleep(PROBE_SECONDS)
            self._switch.settling()
            await self._settle_until_online()

    @property
    def refused(self) -> int:
        """How many orders were refused at settling since the process started."""
        return self._settlement.refused

    @property
    def refused_elsewhere(self) -> int:
        """How many of those touched accounts that others had changed, which this node did not know."""
        return self._settlement.refused_elsewhere.number

    def close(self) -> None:
        """Closes the connection."""
        self._database.close()

    async def _is_back(self) -> bool:
        moments = self._deputy.moments
        if moments.blocked is not None and moments.blocked.decision is None:
            self._wait_for(moments.blocked.told)
            if moments.is_final:
                return False
        if self.decisions.is_under_way or not await self._is_ready():
            return False
        if self.decisions.is_taken:
            return await self.decisions.carry_out()
        # A decision may have been taken meanwhile, which is to be carried out first.
        return await self._is_as_it_was_left() and moments.blocked is None

    async def _is_ready(self) -> bool:
        """Tells whether the database answers, can be written, is the one this node belongs to, and is migrated."""
        heartbeat = await self._heartbeat()
        if heartbeat is None:
            return False
        self._deputy.owns_tables = heartbeat.owns_tables
        self._deputy.foreign = trouble_with(heartbeat, self._deputy.standing.installation_id)
        if self._deputy.foreign is not None:
            self._wait_for(self._deputy.foreign)
            return False
        if heartbeat.newest_migration >= migrations.newest():
            return True
        if await self._migrate() == []:
            self._wait_for(
                "migrations are outstanding, but not where APP_MIGRATION_URL leads: it must be the same database, and "
                "both roles need one search_path"
            )
        # The next look shows whether it was this database.
        return False

    async def _heartbeat(self) -> Heartbeat | None:
        """Returns what the database answers, None where it does not, or cannot be written."""
        try:
            async with self._database.transaction(PROBE_DEADLINE_SECONDS) as connection:
                await has_schema(connection)
                return await beat(connection)
        except StatementRejected as rejected:
            if rejected.sqlstate == INSUFFICIENT_PRIVILEGE:
                self._wait_for("the role of DATABASE_URL has no rights to the tables: `aiopypay migrate` gives them")
            else:
                self._wait_for(f"the database has no aiopypay in it, or a broken one (SQLSTATE {rejected.sqlstate})")
        except DatabaseUnfit as unfit:
            self._wait_for(unfit.reason)
        except Problem as problem:
            if getattr(problem.__cause__, "pgcode", None) == READ_ONLY:
                self._wait_for("the database is read-only: promote it, or connect the primary")
            elif isinstance(problem.__cause__, ServerUnproven):
                self._wait_for(one_line(problem.__cause__))
            logger.debug("The database is not back: %s", problem)
        except Exception:
            # Whatever it is, looking again is all that leads back online.
            logger.exception("The probe failed")
        return None

    async def _is_as_it_was_left(self) -> bool:
        """Looks under the lock of the node's moment: what is in doubt is decided by then, or it is not back."""
        moments = self._deputy.moments
        try:
            if moments.is_first:
                await moments.found(self._database)
            else:
                async with (
                    moments.turn,
                    moments.checked(self._database),
                    self._database.transaction(PROBE_DEADLINE_SECONDS) as connection,
                ):
                    await moments.look(connection)
        except Problem as problem:
            logger.debug("The database is not back: %s", problem)
            return False
        return True

    async def _migrate(self) -> list[str] | None:
        """Returns what was outstanding, None where it could not be applied."""
        # Where the probe has been, and not at another server that may have been this one's place before.
        url = at_server(self._migration_url, self._database_url, self._database.server)
        try:
            return await asyncio.to_thread(migrations.apply, url, self._service_role)
        except (StartError, psycopg2.Error, OSError) as error:
            self._wait_for(f"migrations could not be applied: {one_line(error)}")
            return None

    async def _settle_until_online(self) -> None:
        backoff = PROBE_SECONDS
        started, settled = time.monotonic(), 0
        while not self._switch.is_up:
            try:
                settled += await self._settle_some()
                seconds = time.monotonic() - started
                self._switch.settles_in_seconds = self._node.contents.pending * seconds / max(settled, 1)
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
            # Nobody knows for how long it waits.
            self._switch.settles_in_seconds = None
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
                    await self._elsewhere.read_before_online(self._database)
                elif not await self._is_as_it_was_left():
                    return settled
                self._deputy.note_online()
                server = self._database.server
                self._switch.online({self._database_url: server} if server else None)
                self.waits_for = None
                # Those for whom there was no time.
                self._changes.refresh_soon()
                self._node.post(_prune, datetime.now(UTC) - timedelta(days=self._keep_days))
            return settled

    async def _sleep(self, seconds: float) -> None:
        """Before it looks again, unless the operator has ended what it waits for.

        Now and then it is kept for how long the database has been away. A disk that was full may have room again.
        """
        if time.monotonic() > self._away_noted_at + NOTE_SECONDS:
            self._away_noted_at = time.monotonic()
            self._deputy.note_away()
        if self._node.fenced:
            with contextlib.suppress(Problem):
                await self._deputy.reopen()
        elif not self._node.disk.hangs:
            # The figures follow, of the disk's room above all, which may change by itself.
            self._node.post(Store.pending_count)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._refused.wait()
        self._refused.clear()

    def _wait_for(self, reason: str) -> None:
        if reason != self.waits_for:
            logger.error("Settling waits: %s", reason)
            self.waits_for = reason


def _prune(store: Store, settled_before: datetime) -> None:
    with store.transaction(durable=False):
        store.prune(settled_before)
