"""The deputy: answers in the database's place, from what the node remembers, and keeps what it accepts."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar
from uuid import UUID

from aiopypay.errors import CommitInDoubt, DiskHangs, Problem, StandInFenced
from aiopypay.ledger import TransferOrder
from aiopypay.planning import PlannedOrder
from aiopypay.settings import OfflineSettings
from aiopypay.stand_in import deputy_work
from aiopypay.stand_in.acceptance import Answer, accept, reused_keys
from aiopypay.stand_in.caps import Caps
from aiopypay.stand_in.deputy_work import Standing
from aiopypay.stand_in.mode import ModeSwitch
from aiopypay.stand_in.moments import Moments
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.plan_keeping import UNKNOWN, PlanKeeping, PlanUnderWay
from aiopypay.stand_in.store import Store
from aiopypay.stand_in.withheld import Withheld
from aiopypay.store.accounts import AccountState
from aiopypay.store.installation import Lease
from aiopypay.store.moments import Step
from aiopypay.store.orders import OrderRecord
from aiopypay.store.users import User
from aiopypay.units import RequestKey

logger = logging.getLogger(__name__)

P = ParamSpec("P")
Result = TypeVar("Result")


class Deputy:
    """Stand-in as the rest of the service sees it: one node, its mode, its limits."""

    def __init__(self, node: Node, switch: ModeSwitch, moments: Moments, limits: OfflineSettings) -> None:
        self._node = node
        self._limits = limits
        self._seconds_before = 0.0
        self.switch = switch
        self.moments = moments
        self.standing = Standing(None, holds_lease=False, nodes=1)
        # Whether every user and account is remembered; until then an unknown one proves nothing.
        self.filled = False
        # Set when the memory was forgotten: whoever fills it begins anew.
        self.forgotten = asyncio.Event()
        # Why the operator must look before anything goes on: a foreign database.
        self.foreign: str | None = None
        # Whether the database's guards hold only for as long as the service wants them to.
        self.owns_tables: bool | None = None
        self._withheld = Withheld(node)
        self._plans = PlanKeeping(node, self._withheld, moments)

    async def recall(self) -> None:
        """Takes up what an earlier run of this node knew."""
        self.standing, self._seconds_before, self.filled = await self._node.finish(deputy_work.recall)
        await self.moments.recall()

    async def forget_memory(self) -> None:
        """What is remembered may be out of date: it is forgotten, and read anew. Raises StandInFenced."""
        self.filled = False
        self.forgotten.set()
        await self._node.finish(deputy_work.forget_memory)
        await self._node.start_keeping()

    async def reopen(self) -> None:
        """Where a full disk has fenced this node, and has room again, it stands in again.

        Online it has booked without remembering it, or may have: all is forgotten, as at a start whose mark is gone,
        and read anew. Without the database it has missed nothing since it was fenced; unless that was before, or with a
        batch in doubt, of which nobody can say any more what its clients heard. Then it waits for the database.

        Raises StandInFenced, DiskHangs.
        """
        is_up, node = self.switch.is_up, self._node
        if is_up and node.fenced:
            node.keeps_balances = False
        if not node.may_reopen or self.blocked or self.foreign or not (is_up or node.keeps_balances):
            return
        if not await node.run(deputy_work.has_room, with_plans=is_up):
            return
        await node.run(Store.verify)
        # No batch is under way then: one that began while the node was fenced has ended by now.
        async with self.moments.turn:
            if is_up != self.switch.is_up:
                return
            prepare = deputy_work.begin_anew if is_up else deputy_work.write_again
            await node.reopen(partial(prepare, standing=self.standing, keep_moments=self.moments.keeping()))
        logger.warning("The disk of this node has room again.")
        if is_up:
            self._withheld.clear()
            await self.forget_memory()

    @property
    def _seconds_away(self) -> float:
        return self._seconds_before + self.switch.seconds_down

    @property
    def blocked(self) -> str | None:
        """Why the operator must decide before anything is booked, accepted, or told from memory."""
        return None if self.moments.blocked is None else self.moments.blocked.reason

    async def accept(self, orders: Sequence[TransferOrder]) -> list[Answer]:
        """Returns one answer an order: the journal's entry, what was booked before, or the problem. The ids differ."""
        fence = self.fence()
        if fence is not None:
            return [_not_here(fence) for _ in orders]
        seconds = self._seconds_away
        try:
            accepting = self._node.owe(self._accepted, orders, datetime.now(UTC), seconds)
            self._withheld.unless(accepting, [order.id for order in orders])
            # Dies the process here, the entries are in the journal or not, and a retry tells. Hangs the disk, they may
            # enter it when it goes on, and a retry then finds them there.
            return await self._node.disk.in_time(accepting)
        except StandInFenced as fenced:
            return [StandInFenced(fenced.detail) for _ in orders]
        except DiskHangs:
            return [DiskHangs(UNKNOWN) for _ in orders]

    def refusal(self) -> Problem | None:
        """Returns what any order would be refused with now, whatever it is; None where one may be taken."""
        if self._node.disk.hangs:
            return DiskHangs()
        if self.switch.is_up:
            cannot_book = self._node.cannot_book
            return None if cannot_book is None else StandInFenced(cannot_book)
        fence = self.fence()
        if fence is not None:
            return _not_here(fence)
        # As of the store's last piece of work: an order would join it no later than the next.
        contents = self._node.contents
        return Caps(self._limits, self._seconds_away, pending=contents.pending, free_bytes=contents.free_bytes).closed()

    def put_off(self, orders: Sequence[TransferOrder]) -> dict[UUID, Problem]:
        """Returns the answers to those of the orders that are not to be judged now, in any mode.

        While the disk hangs that is all of them; otherwise those that are withheld.
        """
        if self._node.disk.hangs:
            return {order.id: DiskHangs() for order in orders}
        return self._withheld.answers(orders)

    def _accepted(self, store: Store, orders: Sequence[TransferOrder], now: datetime, seconds: float) -> list[Answer]:
        """In the store's thread: what was booked before is recorded by now, or the node is fenced, as that failed."""
        if self._node.fenced:
            raise StandInFenced(f"This node cannot stand in: {self._node.fenced}")
        return accept(store, orders, self._limits, now, seconds, is_alone=self.standing.nodes == 1)

    async def reused_keys(self, keys: Sequence[RequestKey]) -> set[int]:
        """Returns the places of the keys that are known as those of another content.

        Raises StandInFenced, DiskHangs.
        """
        return await self.read(reused_keys, keys)

    def fence(self) -> str | None:
        """Says why this node does not stand in, None where it does."""
        if self._unfit() is None and not self.standing.holds_lease:
            return "another node holds the stand-in lease (see: python -m aiopypay lease)"
        return self.trouble()

    def trouble(self) -> str | None:
        """Says why this node could not stand in were the lease its own: what the operator is to see to, or wait for."""
        unfit = self._unfit()
        if unfit is None and self.standing.nodes > 1 and self._limits.max_debit is None:
            return f"{self.standing.nodes} nodes are registered, so APP_OFFLINE_MAX_DEBIT must be set"
        return unfit

    def _unfit(self) -> str | None:
        stopped = self._node.fenced or self.blocked or self.foreign
        if not stopped and (self.standing.installation_id is None or not self._node.keeps_balances):
            return "it has not yet read the balances from the database"
        return stopped

    def keep_plan(self, plans: Sequence[PlannedOrder], step: Step) -> PlanUnderWay:
        """Begins at once to put a batch's plan on disk; `kept` of what it returns is to be awaited before COMMIT.

        Raises DiskHangs, or DatabaseBusy where the node was fenced since the step was made; then nothing has begun.
        """
        return self._plans.begin(plans, step)

    async def withdraw_plan(self, step: Step) -> None:
        """Takes the plan of a batch that was certainly not booked off the disk again.

        Raises StandInFenced, or DiskHangs, where that is not done: its orders must not be judged again, `put_off`.
        """
        await self._plans.withdraw(step)

    async def adopt_plan(self, plans: Sequence[PlannedOrder]) -> dict[UUID, Answer]:
        """Takes a batch in doubt into the journal, whole: whether it was booked is found out at settling.

        It does so even where the node may not stand in, so that its memory follows; it then answers that it does not
        know.
        """
        doubt = CommitInDoubt("The database did not answer to COMMIT. Retry with the same Idempotency-Key.")
        answers: dict[UUID, Answer] = {plan.order.id: doubt for plan in plans}
        if not plans:
            return answers
        if self._node.fenced:
            self._withheld.hold(self._plans.planned)
            return answers
        try:
            # Dies the process here, the plan is found at the next start. Hangs the disk, this is done when it goes on,
            # and before anything else is judged.
            adopting = self._node.owe(deputy_work.adopt_plans)
            self._withheld.unless(adopting, self._plans.planned)
            entries = await self._node.disk.in_time(adopting)
        except (StandInFenced, DiskHangs):
            return answers
        if self.fence() is not None:
            return answers
        logger.warning("A batch of %s orders is in doubt; the journal has it.", len(entries))
        return answers | {entry.order.id: entry for entry in entries}

    def record(self, accounts: Sequence[AccountState], records: Sequence[OrderRecord], step: Step) -> None:
        """Remembers what the batch has booked, soon and behind the answer's back, and with it withdraws its plan.

        Until then the plan stays: a process that is killed finds the batch in doubt, and at settling that it is booked.
        """
        self.moments.answered(step)
        if not self._node.fenced:
            booked = deputy_work.Booked(self._plans.number, step.to, accounts, records)
            self._node.defer(deputy_work.record, booked, weight=len(records))

    async def trim_orders(self) -> None:
        """Drops the oldest orders that are too many to be remembered, as long as no batch comes."""
        plan = self._plans.number
        while await self._node.run(deputy_work.trim_orders) and plan == self._plans.number:
            pass

    async def users(self, usernames: Sequence[str]) -> dict[str, User | Exception | None]:
        """Returns the users with these names, in lower case, by name.

        None stands for one who certainly does not exist, NotKnownHere for one of whom the node cannot be sure.
        """
        return await self.read(deputy_work.users_by_name, usernames, self.filled)

    async def read(self, work: Callable[Concatenate[Store, P], Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Returns what `work` reads from the store.

        Raises StandInFenced where it is damaged or not up to date, DiskHangs.
        """
        self._check_memory()

        def read(store: Store) -> Result:
            # In the store's thread: what was booked before is recorded by now, or that has failed.
            self._check_memory()
            return work(store, *args, **kwargs)

        return await self._node.run(read)

    def _check_memory(self) -> None:
        if self.blocked is not None:
            raise StandInFenced(f"The database was replaced, and this node tells nothing: {self.blocked}")
        if self._node.is_damaged or not self._node.keeps_balances:
            raise StandInFenced(f"The database is away, and this node's memory cannot be relied upon: {self.fence()}")

    def note_online(self) -> None:
        """The count of hours without the database begins anew."""
        self._seconds_before = 0.0
        self._node.post(deputy_work.write_seconds, 0.0)

    def note_away(self) -> None:
        """Where the database is away, keeps over restarts for how long."""
        if not self.switch.is_up and not self._node.fenced:
            self._node.post(deputy_work.write_seconds, self._seconds_away)

    async def forget_lease(self) -> None:
        """From now on, over restarts too, this node does not stand in until the database gives it the lease anew."""
        self.standing = replace(self.standing, holds_lease=False)
        await self._node.run(deputy_work.write_standing, self.standing)

    def note_standing(self, installation_id: UUID, lease: Lease) -> None:
        """Remembers what the database says of the lease."""
        standing = Standing(installation_id, lease.node_id == self._node.node_id, lease.nodes, lease.departures)
        if standing != self.standing:
            self.standing = standing
            self._node.post(deputy_work.write_standing, standing)
            logger.info("Stand-in lease: %s.", "held" if standing.holds_lease else f"held by node {lease.node_id}")


def _not_here(fence: str) -> StandInFenced:
    return StandInFenced(f"The database is away, and this node does not stand in: {fence}")
