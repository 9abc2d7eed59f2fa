"""Moments: whether the database, and this node's directory, are those that this node has left, and no older ones.

Each node has one row in PostgreSQL, of a count and a random token, for all that it writes there. One writing
transaction at a time: its first statement locks the row and demands a token that the node knows, its last one replaces
it by one that was synced to the node's disk before. What the node knows are the token of the last COMMIT that was
answered, and those of all since whose answers are missing: that a token is *seen* to have landed changes nothing.
docs/STAND_IN.md has the rules, each with what goes wrong without it.

Where a process dies, hangs or is cancelled: before the token is synced, nothing was written anywhere; after it, the
transaction is one whose answer is missing, whether COMMIT was sent or not.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeVar
from uuid import uuid4

from aiopypay.database import DEADLINE_SECONDS, Database
from aiopypay.errors import CommitInDoubt, DiskHangs, OtherMoment, StandInFenced
from aiopypay.stand_in import moments_on_disk as on_disk
from aiopypay.stand_in.mode import ModeSwitch
from aiopypay.stand_in.moments_on_disk import Blocked, Decision, KnownMoments
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.pages import last_ids
from aiopypay.stand_in.store import Store
from aiopypay.statements import Connection
from aiopypay.store.moments import Moment, Step, demand, moment_of, replace_moment

# Written by stores of formats 1 and 2.
LAST_TRANSFER = "last_transfer"

OLDER_DATABASE = (
    "the database is older than what this node has written to it (its moment {found}, known here {known}): "
    "a backup was restored, or a standby that lagged was promoted"
)
OLDER_DIRECTORY = (
    "this node's data directory is older than what this node has written to the database "
    "(its moment {found}, known here {known}): the directory was put back from a copy"
)

logger = logging.getLogger(__name__)

Found = TypeVar("Found")


class Moments:
    """The moments of one node. `turn` is held by whoever writes, from the first statement to the outcome."""

    def __init__(self, node: Node, switch: ModeSwitch, servers: int = 1) -> None:
        """`servers` is how many the database's URL names."""
        self._node = node
        self._servers = servers
        # Those that hold another moment.
        self._others: set[str | None] = set()
        self._switch = switch
        self.turn = asyncio.Lock()
        self._on_disk = KnownMoments()
        self.blocked: Blocked | None = None

    async def recall(self) -> None:
        """Takes up what an earlier run of this node knew."""
        self._on_disk, self.blocked = await self._node.finish(on_disk.recall)

    def keeping(self) -> Callable[[Store], None]:
        """Returns what keeps on disk, in one's turn, what is known by now: the next note is written over the doubts."""
        known = KnownMoments(self._on_disk.known, list(self._on_disk.doubts), self._on_disk.highest)
        return partial(on_disk.keep, known=known)

    @property
    def is_first(self) -> bool:
        """Whether this node has never yet had an answer to a COMMIT."""
        return self._on_disk.known is None

    def step(self) -> Step:
        """Returns the next step: to be noted on disk before its COMMIT is sent. Asked for in one's turn."""
        if self._node.fenced:
            return self._step(None)
        self._on_disk.highest += 1
        return self._step(Moment(self._on_disk.highest, uuid4()))

    def step_to_nowhere(self) -> Step:
        """Returns a step that leaves the moment as it is: for whoever only looks."""
        return self._step(None)

    def noted(self, step: Step) -> None:
        """The step's moment is on disk, or on its way there: from now on the database may hold it."""
        if step.to is not None:
            self._on_disk.doubts.append(step.to)

    def withdrawn(self, step: Step) -> None:
        """The step's COMMIT was certainly not executed, and never will be."""
        self._on_disk.doubts = [doubt for doubt in self._on_disk.doubts if doubt != step.to]

    def answered(self, step: Step) -> None:
        """The step's COMMIT was answered. What was in doubt before it is decided, as it had to wait for that."""
        if step.to is not None:
            self._on_disk.known, self._on_disk.doubts = step.to, []

    @contextlib.asynccontextmanager
    async def writing(
        self,
        database: Database,
        note: Callable[[Store], None] | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> AsyncIterator[Connection]:
        """The one way to write in PostgreSQL beside batches: a transaction from the moment that is known to a new one.

        `note` is done on disk with the note of the new moment, before anything else. Raises what Database.transaction
        raises, OtherMoment (nothing is written; the node is blocked), and StandInFenced where the disk fails.
        """
        async with self.turn:
            async with self.transaction(database, note, deadline_seconds) as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def transaction(
        self,
        database: Database,
        note: Callable[[Store], None] | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> AsyncIterator[Connection]:
        """As `writing`, for those who have the turn."""
        async with self.stepping(database, note, deadline_seconds) as (connection, _):
            yield connection

    @contextlib.asynccontextmanager
    async def stepping(
        self,
        database: Database,
        note: Callable[[Store], None] | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> AsyncIterator[tuple[Connection, Step]]:
        """As `transaction`, with the step that it takes."""
        step = self.step()
        await self.note(step, note)
        async with (
            self.outcome_of(step, database),
            database.transaction(deadline_seconds, by_statement=True) as connection,
        ):
            await demand(connection, step)
            yield connection, step
            await replace_moment(connection, step)

    @contextlib.asynccontextmanager
    async def outcome_of(self, step: Step, database: Database) -> AsyncIterator[None]:
        """Within it, a transaction that takes this step succeeds, or raises. What is neither stays in doubt."""
        try:
            async with self.checked(database):
                yield
        except CommitInDoubt:
            raise
        except Exception:
            self.withdrawn(step)
            raise
        self.answered(step)
        if step.to is not None and not self._node.fenced:
            self._node.post(on_disk.record_answer, step.to)

    async def look(self, connection: Connection) -> None:
        """Locks the node's moment and compares it, within `checked`. Raises OtherMoment."""
        await demand(connection, self.step_to_nowhere())

    async def found(self, database: Database) -> None:
        """Writes the first moment of a node that has none. Raises as `writing` does.

        Older versions of the service knew by the highest id of a transfer whether the database was an older one.
        """
        seen = await self._node.run(lambda store: int(store.setting(LAST_TRANSFER) or 0))
        async with self.writing(database) as connection:
            if (await last_ids(connection))[0] < seen:
                raise OtherMoment(None)

    async def learn(
        self,
        database: Database,
        read: Callable[[Connection], Awaitable[Found]],
        remember: Callable[[Store, Found], None],
    ) -> Found | None:
        """Returns what was read, and handed over to memory; None where the mode did not allow that it is remembered.

        Read in one's turn, so that no batch is under way: a read may show one whose answer is still awaited, and were
        that in doubt, the journal would add its changes to balances that hold them already. While the database is away
        the journal knows better. Raises what `writing` raises.
        """
        epoch = self._switch.epoch
        async with self.turn:
            async with self.transaction(database) as connection:
                found = await read(connection)
            if not self._switch.is_up or epoch != self._switch.epoch:
                return None
            self._node.post(remember, found)
        return found

    @contextlib.asynccontextmanager
    async def checked(self, database: Database) -> AsyncIterator[None]:
        """Blocks the node where another moment is found within it than is known."""
        try:
            yield
        except OtherMoment as other:
            await self._block(other, database.server)
            raise
        if self.blocked is not None and not self.is_final:
            logger.warning("Another server that the database's URL names is the one that this node left.")
            await self._write_blocked(None)
            self.blocked, self._others = None, set()

    @property
    def is_final(self) -> bool:
        """Whether it is for the operator alone: every server that the URL names is another, or a decision is taken."""
        return self.blocked is not None and (self.blocked.is_final or self.blocked.decision is not None)

    async def _block(self, other: OtherMoment, server: str | None) -> None:
        """From now on, over restarts too, nothing is booked, accepted or told until the operator decides.

        One of several servers may be what a failover left behind: then it is looked for at the others.
        """
        self._others.add(server)
        # A number that was given out and never noted counts for nothing.
        highest = max((moment.count for moment in self._known), default=0)
        is_directory = other.count is not None and other.count > highest
        reason = OLDER_DIRECTORY if is_directory else OLDER_DATABASE
        told = reason.format(found="none" if other.count is None else other.count, known=highest)
        before, self.blocked = self.blocked, Blocked(told, is_directory, is_final=len(self._others) >= self._servers)
        self._switch.lost("the database is not the one that this node left")
        if self.blocked != before:
            logger.critical("%s", self.blocked.told)
            await self._write_blocked(self.blocked)

    async def _write_blocked(self, blocked: Blocked | None) -> None:
        # Where the disk fails, the next start will find out by itself.
        with contextlib.suppress(StandInFenced, DiskHangs):
            await self._node.run(on_disk.write_blocked, blocked)

    async def adopt(self, database: Database, decision: Decision) -> None:
        """The operator has decided: what the database holds is known from now on, and replaced at once.

        Raises what Database.transaction raises, StandInFenced; whatever became of the transaction then, the decision
        is taken or it is not, and goes on over restarts.
        """
        assert self.blocked is not None  # noqa: S101 - the caller looked
        blocked = Blocked(self.blocked.reason, self.blocked.is_directory, decision)
        async with self.turn, database.transaction() as connection:
            found = await moment_of(connection, self._node.node_id)
            to = Moment(max(self._on_disk.highest, found.count if found else 0) + 1, uuid4())
            adopted = KnownMoments(found, [to], to.count)
            await self._node.run(on_disk.adopt, adopted, blocked)
            self._on_disk, self.blocked = adopted, blocked
            await replace_moment(connection, self._step(to))

    async def unblock(self, database: Database) -> None:
        """What was decided is done: everything goes on, if the database still is the one. Raises as `writing` does."""
        async with self.writing(database):
            pass
        await self._node.run(on_disk.write_blocked, None)
        self.blocked, self._others = None, set()

    async def note(self, step: Step, note: Callable[[Store], None] | None = None) -> None:
        """Keeps the step's moment on disk, and does `note` there with it. Raises StandInFenced where the disk fails."""
        if step.to is None:
            self._node.check_may_book()
        else:
            self.noted(step)
            await self._node.run(on_disk.note, list(self._on_disk.doubts), note)

    @property
    def _known(self) -> list[Moment]:
        """What the database may hold."""
        return [*filter(None, [self._on_disk.known]), *self._on_disk.doubts]

    def _step(self, to: Moment | None) -> Step:
        return Step(self._node.node_id, self._known, to, self.is_first)
