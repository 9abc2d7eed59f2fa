"""What the operator decides where the database, or the node's directory, is an older one; and its carrying out."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiopypay.database import Database
from aiopypay.errors import OtherMoment, Problem
from aiopypay.stand_in.deputy import Deputy
from aiopypay.stand_in.elsewhere import ChangesElsewhere
from aiopypay.stand_in.moments_on_disk import VERBS, Decision
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.restoration import Restoration
from aiopypay.stand_in.restoration_report import Report

logger = logging.getLogger(__name__)


class DecisionNotAwaited(Exception):
    """There is nothing to decide, or it cannot be done now; the message says why."""


class Decisions:
    """One look or decision at a time, which no probe of the database disturbs."""

    def __init__(
        self,
        database: Database,
        node: Node,
        deputy: Deputy,
        elsewhere: ChangesElsewhere,
        *,
        is_ready: Callable[[], Awaitable[bool]],
        wait_for: Callable[[str], None],
    ) -> None:
        """`is_ready` tells whether the database can be used, `wait_for` is told what keeps a decision from its end."""
        self._database = database
        self._node = node
        self._deputy = deputy
        self._elsewhere = elsewhere
        self._is_ready = is_ready
        self._wait_for = wait_for
        self._deciding = asyncio.Lock()
        self._decided: asyncio.Future[Report] | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether the operator looks or decides, or a decision is carried out."""
        return self._deciding.locked()

    @property
    def is_taken(self) -> bool:
        """Whether a decision is to be carried out."""
        blocked = self._deputy.moments.blocked
        return blocked is not None and blocked.decision is not None

    async def decide(self, decision: Decision) -> Report:
        """The operator's decision about a database, or a directory, that is an older one; returns once it is done.

        A replay that cannot be carried out may be overruled. Raises DecisionNotAwaited, and what `Moments.adopt`
        raises: it may be tried again then.
        """
        blocked = self._deputy.moments.blocked
        if blocked is None:
            raise DecisionNotAwaited("Nothing waits for a decision (GET /health says what this node waits for).")
        if self._deciding.locked() or blocked.decision == decision:
            raise DecisionNotAwaited("That is under way; GET /health and the log tell how far it has come.")
        async with self._deciding:
            await self._require_ready()
            await self._deputy.moments.adopt(self._database, decision)
            self._decided = asyncio.get_running_loop().create_future()
        return await self._decided

    async def preview(self) -> Report:
        """Returns what a replay would do. Raises as `decide` does."""
        blocked = self._deputy.moments.blocked
        if blocked is None:
            raise DecisionNotAwaited("The database holds all that this node has written to it: nothing is to replay.")
        if self._deciding.locked() or blocked.decision is not None:
            raise DecisionNotAwaited("A decision is taken, or looked at, already.")
        async with self._deciding:
            await self._require_ready()
            return await self._restoration(writes=False).preview()

    def _restoration(self, *, writes: bool) -> Restoration:
        return Restoration(self._database, self._node, self._deputy, self._elsewhere, writes=writes)

    async def _require_ready(self) -> None:
        if not await self._is_ready():
            self._database.renew()
            raise DecisionNotAwaited("The database is not ready: GET /health says what is missing.")

    async def carry_out(self) -> bool:
        """What the operator has decided; after a restart too. Whatever fails, the operator may decide otherwise."""
        async with self._deciding:
            return await self._carry_out()

    async def _carry_out(self) -> bool:
        try:
            report = await self._restoration(writes=True).carry_out()
        except OtherMoment:
            self._tell_decided(DecisionNotAwaited("The database was replaced once more: decide again."))
            return False
        except Problem as problem:
            self._wait_for(f"what was decided is not done yet: {problem.detail}")
            return False
        except Exception:
            logger.exception("What was decided cannot be carried out")
            self._wait_for("what was decided cannot be carried out; see the log, or decide otherwise: " + VERBS)
            return False
        self._tell_decided(report)
        return True

    def _tell_decided(self, outcome: Report | DecisionNotAwaited) -> None:
        if self._decided is None or self._decided.done():
            return
        if isinstance(outcome, Report):
            self._decided.set_result(outcome)
        else:
            self._decided.set_exception(outcome)
