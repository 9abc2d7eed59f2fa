"""The stand-in from start to stop: which mode the node starts in, what runs beside the requests, what it reports."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from aiopypay.addresses import host_count
from aiopypay.database import Database
from aiopypay.errors import Problem, StandInFenced, StartError
from aiopypay.settings import Settings
from aiopypay.stand_in import restoration_report
from aiopypay.stand_in.acceptance import KEYS_COMPLETE
from aiopypay.stand_in.changes import UserChanges
from aiopypay.stand_in.deputy import Deputy
from aiopypay.stand_in.deputy_work import adopt_plans, drop_plans
from aiopypay.stand_in.elsewhere import ChangesElsewhere
from aiopypay.stand_in.fill import Fill
from aiopypay.stand_in.keeper import Keeper
from aiopypay.stand_in.listing import JournalLine, journal_page
from aiopypay.stand_in.mode import ModeSwitch
from aiopypay.stand_in.moments import Moments
from aiopypay.stand_in.moments_on_disk import Decision
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.rates import Rates
from aiopypay.stand_in.records import State
from aiopypay.stand_in.recovery import Recovery
from aiopypay.stand_in.rejected import Refusal
from aiopypay.stand_in.store import Store

DIRECTORY = "stand-in"
CANCEL_AGAIN_SECONDS = 0.2

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """What the operator sees of the node."""

    mode: str
    since: datetime
    pending: int
    oldest: datetime | None
    holds_lease: bool
    fenced: str | None
    disk: str | None
    settling_waits_for: str | None
    refused: int
    # Of those, how many touched accounts that others had changed since this node last knew of it.
    refused_elsewhere: int
    remembered: dict[str, int | bool]
    # Whether the role of the service might switch the guards of history off; None before the database was met.
    owns_tables: bool | None


class StandIn:
    """One node's stand-in; everything of it that the service needs hangs here."""

    def __init__(self, settings: Settings, database: Database, switch: ModeSwitch) -> None:
        """Opens the node's store. `database` is the one of requests. Raises StoreInUse."""
        assert settings.database_url is not None  # noqa: S101 - create_app refused it
        self._settings = settings
        self._database = database
        self._switch = switch
        self._node = Node(settings.data_dir / DIRECTORY)
        self.writers_lock = asyncio.Lock()
        moments = Moments(self._node, switch, host_count(settings.database_url))
        self.deputy = Deputy(self._node, switch, moments, settings.offline)
        self.changes = UserChanges(database, self._node, switch, moments)
        self.rates = Rates(database, self._node, self.changes, moments)
        self._elsewhere = ChangesElsewhere(database, self._node, self.deputy, self.rates)
        self._keeper = Keeper(
            database,
            self._node,
            self.deputy,
            rates=self.rates,
            elsewhere=self._elsewhere,
            keep_days=settings.offline.keep_days,
        )
        self._fill = Fill(
            database,
            self._node,
            self.deputy,
            rates=self.rates,
            elsewhere=self._elsewhere,
            accounts_max=settings.offline.accounts_max,
        )
        self._recovery = Recovery(
            settings.database_url,
            self._node,
            self.deputy,
            self.changes,
            self._elsewhere,
            migration_url=settings.migration_url or settings.database_url,
            service_role=settings.service_role,
            writers_lock=self.writers_lock,
            keep_days=settings.offline.keep_days,
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Finds out the mode to start in, and starts what runs beside the requests.

        A node whose journal or plans are not empty never starts online: it settles first. Raises StartError where the
        database is away and this node has never met it.
        """
        if self._node.is_damaged:
            # Accepted payments may be missing. Until the operator has looked, nothing is booked or accepted.
            self._switch.lost("the stand-in store is damaged")
            return
        await self._open()
        for work in (self._recovery.run, self._keeper.run, self._remember_everything):
            self._tasks.append(asyncio.create_task(_guarded(work)))

    async def stop(self) -> None:
        """Ends what runs beside the requests, leaves the other nodes where there are any, closes the store."""
        await _ended(self._tasks)
        await self.changes.close()
        if self._switch.is_up:
            await self._keeper.leave()
        self.deputy.note_away()
        self._recovery.close()
        await self._node.close()

    def refusals(self) -> tuple[int, int]:
        """Returns how many orders were refused at settling, and how many of them through changes made elsewhere."""
        return self._recovery.refused, self._recovery.refused_elsewhere

    def report(self) -> Report:
        """Returns the node's state, as far as it is known without waiting for its disk."""
        contents = self._node.contents
        return Report(
            mode=self._switch.mode,
            since=self._switch.since,
            pending=contents.pending,
            oldest=contents.oldest,
            holds_lease=self.deputy.standing.holds_lease,
            fenced=self.deputy.trouble(),
            disk=self._trouble_of_disk(),
            settling_waits_for=self._recovery.waits_for,
            refused=self._recovery.refused,
            refused_elsewhere=self._recovery.refused_elsewhere,
            remembered={"complete": self.deputy.filled, **contents.remembered},
            owns_tables=self.deputy.owns_tables,
        )

    def _trouble_of_disk(self) -> str | None:
        seconds, free = self._node.disk.silent_seconds, self._node.contents.free_bytes
        if seconds is not None:
            return f"the disk has not answered for {seconds:.0f} s"
        floor = self._settings.offline.min_free_bytes
        if free < floor:
            return (
                f"the disk of {self._settings.data_dir} has {free >> 20} MiB free, less than the {floor >> 20} MiB of "
                "APP_OFFLINE_MIN_FREE_BYTES: without the database no orders are accepted until there is room"
            )
        return None

    async def journal(self, state: State | None, after_sequence: int) -> list[JournalLine]:
        """Returns a page of the journal, as the operator reads it."""
        return await self._node.run(journal_page, state, after_sequence)

    async def decide(self, decision: Decision) -> restoration_report.Report:
        """Takes the operator's decision about a database that was replaced. Raises as `Decisions.decide` does."""
        return await self._recovery.decisions.decide(decision)

    async def preview(self) -> restoration_report.Report:
        """Returns what a replay would do. Raises as `Decisions.preview` does."""
        return await self._recovery.decisions.preview()

    async def refuse(self, sequence: int, reason: str) -> Refusal:
        """Refuses, with its group, the entry that settling waits for. Raises as `Settlement.refuse` does."""
        return await self._recovery.refuse(sequence, reason)

    def remove_file(self, path: Path) -> None:
        """Removes a file of the data directory, soon; one that stays is no harm."""
        self._node.post(_remove, path)

    async def _open(self) -> None:
        await self._node.finish(_adopt_plans_of_last_run if self._node.keeps_balances else drop_plans)
        await self.deputy.recall()
        if self.deputy.blocked is not None:
            self._switch.lost("the operator is to decide")
        try:
            await self._keeper.register()
            if self._switch.is_up and self.deputy.moments.is_first:
                await self.deputy.moments.found(self._database)
        except Problem as problem:
            if self.deputy.standing.installation_id is None:
                raise StartError(f"the first start needs the database: {problem.detail}") from problem
            self._switch.lost(problem.detail)
            logger.warning("Starting without the database, from what was known.")
        # What was not recorded is not relied upon: all is forgotten, and read anew; but not what may be booked again.
        if not self._node.keeps_balances and self.deputy.blocked is None:
            with contextlib.suppress(StandInFenced):
                await self.deputy.forget_memory()
        await self._elsewhere.recall()
        if self._switch.is_up:
            if await self._node.finish(Store.pending_count):
                self._switch.lost("the journal is not empty")
            else:
                self.deputy.note_online()
                # What cannot be read now is read in the keeper's first turn.
                with contextlib.suppress(Problem):
                    await self._elsewhere.follow(overlap=True)

    async def _remember_everything(self) -> None:
        """Each time that all was forgotten, too."""
        while True:
            await self._switch.wait_until_up()
            self.deputy.forgotten.clear()
            self.changes.refresh_soon()
            await self._fill.run(with_orders=self.deputy.standing.nodes > 1 or not await self._node.finish(_knows_keys))
            await self.deputy.forgotten.wait()


def has_met_database(settings: Settings) -> bool:
    """Tells whether a node in this data directory may start without the database."""
    return (settings.data_dir / DIRECTORY / "store.sqlite").exists()


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    """Cancels the tasks until they end: a cancellation that meets a statement's own end or deadline is lost in it."""
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_SECONDS)


async def _guarded(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Begins it only in its task: one that is cancelled before its first step leaves nothing behind."""
    try:
        await work()
    except Exception:
        logger.critical("A part of stand-in has ended; restart the service", exc_info=True)


def _adopt_plans_of_last_run(store: Store) -> None:
    """The last run ended between plans and the record of their outcome: these batches enter the journal whole."""
    if store.plans():
        entries = adopt_plans(store, told=False)
        logger.warning("%s orders were in doubt when the service ended; the journal has them.", len(entries))


def _remove(_: Store, path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _knows_keys(store: Store) -> bool:
    return store.setting(KEYS_COMPLETE) == "yes"
