"""Settling: the journal is booked in its own order, by the same rule and the same statements as online.

An outcome is marked here after it is durable in PostgreSQL. A process killed in between finds, at its next attempt,
the orders booked under their ids, and marks them then.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence, Set
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from aiopypay.database import DEADLINE_SECONDS, Database
from aiopypay.errors import DuplicateOrder, Problem, StatementRejected, UnknownAccount
from aiopypay.stand_in.elsewhere import ChangesElsewhere
from aiopypay.stand_in.groups import by_group, doubts_beyond, known_whole, oldest_batch, pending_of
from aiopypay.stand_in.moments import Moments
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.outcomes import Settled, known_outcomes, mark
from aiopypay.stand_in.records import JournalEntry
from aiopypay.stand_in.refusals import RefusalsElsewhere
from aiopypay.stand_in.rejected import NotAwaited, Refusal, Rejected
from aiopypay.stand_in.store import Store
from aiopypay.statements import Connection, prolong
from aiopypay.store.moments import Step, replace_moment
from aiopypay.store.orders import Judgement, account_states, book_plans, find_orders, judge_orders, record_refusals

# New orders wait while the last batch is settled.
BATCH_SIZE = 600
# What has the deadline of a batch online; what is larger has more in proportion.
USUAL_SIZE = 400

logger = logging.getLogger(__name__)


class SettlingStopped(Exception):
    """Settling waits for the operator; the message says for what."""


class Settlement:
    """Settles the journal of one node, batch by batch. A batch may be tried again at any point: ids are looked up."""

    def __init__(self, database: Database, node: Node, moments: Moments, elsewhere: ChangesElsewhere) -> None:
        self._database = database
        self._node = node
        self._moments = moments
        # Settling and the operator take turns.
        self._turn = asyncio.Lock()
        self.refused = 0
        self.rejected: Rejected | None = None
        self.refused_elsewhere = RefusalsElsewhere(database, elsewhere)

    async def pending(self) -> int:
        """Returns how many entries are not settled."""
        return await self._node.run(Store.pending_count)

    async def settle_next(self) -> int:
        """Settles the oldest batch and returns its size.

        Raises DatabaseUnavailable, DatabaseBusy, SettlingStopped (then nothing was marked), StandInFenced.
        """
        async with self._turn:
            self.rejected = None
            entries = await self._node.run(oldest_batch, BATCH_SIZE)
            # What is booked of a batch in doubt is found whole, in one transaction: the balances hold all of it.
            doubts = await self._node.run(doubts_beyond, entries)
            if doubts and (known := await self._settle(doubts, only_known=True)):
                return len(known)
            if entries:
                await self._settle_all(entries)
            return len(entries)

    async def refuse(self, sequence: int, reason: str) -> Refusal:
        """Refuses an entry, with its group, that settling waits for; `reason` is the operator's.

        What turns out to be booked is marked so, and not refused. Raises NotAwaited, and what Database.transaction
        raises: then nothing is refused, but for CommitInDoubt.
        """
        async with self._turn:
            awaited = self.rejected
            if awaited is None or not awaited.is_refusable or sequence not in awaited.sequences:
                raise NotAwaited(f"Settling does not wait for entry {sequence}; /health says what it waits for.")
            entries = await self._node.run(pending_of, awaited.sequences)
            told = f"refused by the operator: {reason}"
            try:
                settled = await self._refuse(entries, told)
            except StatementRejected:
                # Another order has the key, of which the id says as much: without it there is nothing left to reject.
                settled = await self._refuse(entries, told, keyed=False)
            self.rejected = None
        return Refusal(
            refused=[entry.sequence for entry in entries if entry.entry.order.id in settled.refused],
            posted=[entry.sequence for entry in entries if entry.entry.order.id in settled.posted],
        )

    async def _settle_all(self, entries: Sequence[JournalEntry]) -> None:
        try:
            await self._settle(entries)
        except StatementRejected:
            # Somewhere in it is an order that PostgreSQL does not take: one by one, in order, it stands alone, or
            # with its group. What was booked before goes first, whole: the balances hold all of it already.
            known = await self._settle(entries, only_known=True)
            left = [entry for entry in entries if entry.sequence not in known]
            for together in by_group(left):
                await self._settle_alone(together)

    async def _settle_alone(self, entries: Sequence[JournalEntry]) -> None:
        try:
            try:
                await self._settle(entries)
            except DuplicateOrder:
                # Another node booked this id in the meantime: it is found now, and not this order's failure.
                await self._settle(entries)
        except StatementRejected as rejected:
            self.rejected = Rejected(tuple(entry.sequence for entry in entries), rejected.sqlstate)
            raise SettlingStopped(self.rejected.told()) from rejected

    async def _refuse(self, entries: Sequence[JournalEntry], reason: str, *, keyed: bool = True) -> Settled:
        """Refuses what of these is not known. That is looked up once all accounts that they name are locked."""
        orders = [entry.entry.order for entry in entries]
        async with self._step(len(entries)) as (connection, step):
            known = (await judge_orders(connection, orders, step)).known
            reasons = {order.id: reason for order in orders if order.id not in known}
            await replace_moment(connection, step)
            written = orders if keyed else [msgspec.structs.replace(order, idempotency_key=None) for order in orders]
            await record_refusals(connection, written, reasons)
            decided = await find_orders(connection, list(reasons))
            accounts = await account_states(connection, _touched(entries))
        posted, refused = known_outcomes(orders, known)
        settled = Settled(posted, reasons | refused, [*known.values(), *decided.values()], accounts)
        await self._mark(entries, settled)
        return settled

    async def _settle(self, entries: Sequence[JournalEntry], *, only_known: bool = False) -> Set[int]:
        """Settles these entries, or only those that are booked already; returns the sequences of what is settled."""
        async with self._step(len(entries)) as (connection, step):
            judgement = await judge_orders(connection, [entry.entry.order for entry in entries], step)
            if only_known:
                judgement = replace(judgement, known=known_whole(entries, judgement.known), plans=(), refusals={})
            settled = await _book(connection, judgement, entries, step)
        await self._mark(entries, settled)
        return {
            entry.sequence
            for entry in entries
            if entry.entry.order.id in settled.posted.keys() | settled.refused.keys()
        }

    @contextlib.asynccontextmanager
    async def _step(self, size: int) -> AsyncIterator[tuple[Connection, Step]]:
        """A transaction that has the time of as many batches as a group is large: it cannot be made smaller."""
        batches = max(1, size / USUAL_SIZE)
        async with self._moments.turn:
            step = self._moments.step()
            await self._moments.note(step)
            async with (
                self._moments.outcome_of(step, self._database),
                self._database.transaction(DEADLINE_SECONDS * batches) as connection,
            ):
                if batches > 1:
                    await prolong(connection, batches)
                yield connection, step

    async def _mark(self, entries: Sequence[JournalEntry], settled: Settled) -> None:
        refused = [entry for entry in entries if entry.entry.order.id in settled.refused]
        elsewhere = await self.refused_elsewhere.among(refused)
        await self._node.run(mark, entries, settled, datetime.now(UTC))
        self.refused_elsewhere.note(elsewhere)
        for order_id, reason in settled.refused.items():
            self.refused += 1
            logger.error("Order %s, accepted without the database, is refused: %s", order_id, reason)


async def _book(connection: Connection, judgement: Judgement, entries: Sequence[JournalEntry], step: Step) -> Settled:
    orders = [entry.entry.order for entry in entries]
    refused = _reasons(judgement)
    posted, changed = await book_plans(connection, judgement.plans, step)
    if not judgement.plans:
        await replace_moment(connection, step)
    await record_refusals(connection, orders, refused)
    known_posted, known_refused = known_outcomes(orders, judgement.known)
    posted |= known_posted
    decided = await find_orders(connection, list(refused)) if refused else {}
    changed_ids = {account.id for account in changed}
    others = [account_id for account_id in _touched(entries) if account_id not in changed_ids]
    accounts = [*changed, *(await account_states(connection, others) if others else ())]
    return Settled(posted, refused | known_refused, [*posted.values(), *decided.values()], accounts)


def _reasons(judgement: Judgement) -> dict[UUID, str]:
    for order_id, refusal in judgement.refusals.items():
        if isinstance(refusal, UnknownAccount):
            raise SettlingStopped(f"an account that the journal knows is not in the database: {refusal.detail}")
        if refusal.status >= 500:
            raise SettlingStopped(f"order {order_id} cannot be judged: {refusal.detail}")
    return {order_id: _reason(refusal) for order_id, refusal in judgement.refusals.items()}


def _reason(refusal: Problem) -> str:
    return f"{refusal.title}: {refusal.detail}"


def _touched(entries: Sequence[JournalEntry]) -> list[int]:
    """Returns the accounts that the entries change."""
    return sorted(
        {
            account_id
            for entry in entries
            for transfer in entry.entry.transfers
            for account_id in (transfer.from_account_id, transfer.to_account_id)
        }
    )
