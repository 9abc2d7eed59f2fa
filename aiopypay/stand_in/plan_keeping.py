"""The plans of batches: on disk before COMMIT, and off it again where nothing was booked.

What happens where the process dies, or the disk hangs, while it is waited for

- *the plan's write* (`kept`): nothing is booked. The plan may be on disk; the next start finds it and takes the batch
  as in doubt, so that it is booked then. The client was told nothing, or 503, outcome unknown. Where the disk hangs
  and the process lives, the transaction is rolled back, and the withdrawal stands right behind the write.
- *its withdrawal* (`withdraw`): the same. Until it is done its orders are withheld: judged again, one could be refused
  that the next start books.
- *the record of what was booked*: nobody waits for it. The plan is there until then.
"""

import asyncio
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from uuid import UUID

from aiopypay.errors import CommitInDoubt, DatabaseBusy, DiskHangs, StandInFenced
from aiopypay.holding import held_open
from aiopypay.planning import PlannedOrder
from aiopypay.stand_in import deputy_work
from aiopypay.stand_in.acceptance import entry_of
from aiopypay.stand_in.moments import Moments
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.records import Plan
from aiopypay.stand_in.withheld import WITHHELD, Withheld
from aiopypay.statements import Connection
from aiopypay.store.moments import Step

LOST_DISK = "This node has just lost its disk. Nothing was booked; try again."
UNKNOWN = "Outcome unknown: the disk of this node does not answer. Retry with the same Idempotency-Key."


class PlanKeeping:
    """The plans of a node. There is one batch at a time, and one plan under way."""

    def __init__(self, node: Node, withheld: Withheld, moments: Moments) -> None:
        self.node = node
        self._withheld = withheld
        self._moments = moments
        # Of the batch under way; its orders, where their plan may be on disk.
        self.number = 0
        self.planned: Collection[UUID] = ()

    def begin(self, plans: Sequence[PlannedOrder], step: Step) -> "PlanUnderWay":
        """Begins at once to write a batch's plan, and with it the step's moment.

        Raises DiskHangs, or DatabaseBusy where the node was fenced since the step was made: without a disk it takes
        another. Then nothing has begun.
        """
        self.planned = ()
        if not plans or step.to is None:
            return PlanUnderWay(self, None, is_needed=bool(plans))
        if self.node.fenced:
            raise DatabaseBusy(LOST_DISK)
        now = datetime.now(UTC)
        plan = Plan([entry_of(plan, now, in_doubt=True) for plan in plans], step.to)
        self.number += 1
        writing = self.node.start_first(deputy_work.write_plan, self.number, plan)
        self._moments.noted(step)
        self.planned = [plan.order.id for plan in plans]
        return PlanUnderWay(self, writing, is_needed=True)

    async def withdraw(self, step: Step) -> None:
        """Takes the plan of a batch that was certainly not booked off the disk again, as durably as it was written.

        Raises StandInFenced where that fails and the next start would book it, DiskHangs where it is done later, or
        found at the next start.
        """
        self._moments.withdrawn(step)
        if not self.planned:
            return
        # Also where the node is fenced, for the failure of something else: what stays on disk will be booked.
        withdrawn = self.node.owe(deputy_work.withdraw_plan, self.number)
        self._withheld.until(withdrawn, self.planned)
        try:
            await self.node.disk.in_time(withdrawn)
        except StandInFenced as fenced:
            self._check_dropped(fenced)
        except DiskHangs as hangs:
            raise DiskHangs(UNKNOWN) from hangs

    def _check_dropped(self, cause: StandInFenced) -> None:
        """Whether the next start drops the plans that it finds, as it does where the mark beside the store is gone."""
        try:
            self.node.check_may_book()
        except StandInFenced:
            raise StandInFenced(WITHHELD) from cause
        self._withheld.release(self.planned)


class PlanUnderWay:
    """A plan that is being written; `writing` is None where there is none to write."""

    def __init__(self, keeping: PlanKeeping, writing: "asyncio.Future[None] | None", *, is_needed: bool) -> None:
        self._keeping = keeping
        self._writing = writing
        self._is_needed = is_needed

    async def kept(self, connection: Connection) -> None:
        """Returns once the plan is on disk; the transaction on `connection` may take that much longer.

        What fails fences the node. Raises DatabaseBusy then: the batch is tried again, by a step without a plan;
        StandInFenced, CommitInDoubt or DiskHangs, where nothing can be booked without one; and what a statement raises
        where the database is lost meanwhile.
        """
        if self._writing is not None:
            try:
                await held_open(connection, self._writing)
            except StandInFenced as fenced:
                if not self._keeping.node.is_unsure:
                    # A full disk has not taken it.
                    self._keeping.planned = ()
                # Otherwise it may be there all the same; but the next start, without the mark, drops what it finds.
                self._check_may_book()
                raise DatabaseBusy(LOST_DISK) from fenced
        if self._is_needed:
            self._check_may_book()

    def _check_may_book(self) -> None:
        try:
            self._keeping.node.check_may_book()
        except StandInFenced as fenced:
            if self._writing is None:
                raise
            raise CommitInDoubt(f"Outcome unknown: {fenced.detail}") from fenced
