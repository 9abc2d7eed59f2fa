"""Settling: the journal is booked in its own order, by the same rule and the same statements as online.

An outcome is marked here after it is durable in PostgreSQL. A process killed in between finds, at its next attempt,
the orders booked under their ids, and marks them then.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import UUID

from aiopypay.database import DEADLINE_SECONDS, Database
from aiopypay.errors import (
    DuplicateOrder,
    IdempotencyKeyReused,
    OrderRefused,
    Problem,
    StatementRejected,
    UnknownAccount,
)
from aiopypay.ledger import TransferOrder
from aiopypay.stand_in.elsewhere import ChangesElsewhere
from aiopypay.stand_in.groups import by_group, known_whole, oldest_batch
from aiopypay.stand_in.identity import note_transfers
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.records import JournalEntry
from aiopypay.stand_in.refusals import RefusalsElsewhere
from aiopypay.stand_in.store import Store
from aiopypay.statements import Connection, prolong
from aiopypay.store.accounts import AccountState
from aiopypay.store.orders import (
    Judgement,
    OrderRecord,
    account_states,
    book_plans,
    find_orders,
    judge_orders,
    record_refusals,
)

# New orders wait while the last batch is settled.
BATCH_SIZE = 600
# What has the deadline of a batch online; what is larger has more in proportion.
USUAL_SIZE = 400

logger = logging.getLogger(__name__)


class SettlingStopped(Exception):
    """Settling waits for the operator; the message says for what."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a batch of the journal."""

    posted: dict[UUID, OrderRecord] = field(default_factory=dict)
    refused: dict[UUID, str] = field(default_factory=dict)
    records: Sequence[OrderRecord] = ()
    accounts: Sequence[AccountState] = ()


class Settlement:
    """Settles the journal of one node, batch by batch. A batch may be tried again at any point: ids are looked up."""

    def __init__(self, database: Database, node: Node, elsewhere: ChangesElsewhere) -> None:
        self._database = database
        self._node = node
        self.refused = 0
        self.refused_elsewhere = RefusalsElsewhere(database, elsewhere)

    async def pending(self) -> int:
        """Returns how many entries are not settled."""
        return await self._node.run(Store.pending_count)

    async def settle_next(self) -> int:
        """Settles the oldest batch and returns its size.

        Raises DatabaseUnavailable, DatabaseBusy, SettlingStopped (then nothing was marked), StandInFenced.
        """
        entries = await self._node.run(oldest_batch, BATCH_SIZE)
        if entries:
            try:
                await self._settle(entries)
            except StatementRejected:
                # Somewhere in it is an order that PostgreSQL does not take: one by one, in order, it stands alone, or
                # with its group. What was booked before goes first, whole: the balances hold all of it already.
                known = await self._settle(entries, only_known=True)
                left = [entry for entry in entries if entry.sequence not in known]
                for together in by_group(left):
                    await self._settle_alone(together)
        return len(entries)

    async def _settle_alone(self, entries: Sequence[JournalEntry]) -> None:
        try:
            await self._settle(entries)
        except DuplicateOrder:
            # Another node booked this id in the meantime: it is found now, and not this order's failure.
            await self._settle(entries)
        except StatementRejected as rejected:
            if rejected.sqlstate[:2] not in ("22", "23"):
                raise SettlingStopped(
                    f"PostgreSQL rejects entry {entries[0].sequence} (SQLSTATE {rejected.sqlstate}); see the log"
                ) from rejected
            await self._refuse(entries, rejected.sqlstate)

    async def _refuse(self, entries: Sequence[JournalEntry], sqlstate: str) -> None:
        """Refuses an order, or a group, that PostgreSQL does not take. What of a group is known stays as it is."""
        orders = [entry.entry.order for entry in entries]
        what = "it" if len(orders) == 1 else f"one of the {len(orders)} orders that were sent together"
        remembered = await self._node.run(_versions, entries)
        async with self._database.transaction() as connection:
            known = await find_orders(connection, [order.id for order in orders])
            reasons = {
                order.id: f"PostgreSQL rejects {what} (SQLSTATE {sqlstate})"
                for order in orders
                if order.id not in known
            }
            await record_refusals(connection, orders, reasons)
            decided = await find_orders(connection, list(reasons))
            accounts = await account_states(connection, list(remembered))
        posted, refused = _known_outcomes(orders, known)
        await self._mark(entries, Settled(posted, reasons | refused, [*known.values(), *decided.values()], accounts))

    async def _settle(self, entries: Sequence[JournalEntry], *, only_known: bool = False) -> Set[int]:
        """Settles these entries, or only those that are booked already; returns the sequences of what is settled."""
        remembered = await self._node.run(_versions, entries)
        async with self._transaction(len(entries)) as connection:
            judgement = await judge_orders(connection, [entry.entry.order for entry in entries])
            if only_known:
                judgement = replace(judgement, known=known_whole(entries, judgement.known), plans=(), refusals={})
            settled = await _book(connection, judgement, [entry.entry.order for entry in entries], remembered)
        await self._mark(entries, settled)
        return {
            entry.sequence
            for entry in entries
            if entry.entry.order.id in settled.posted.keys() | settled.refused.keys()
        }

    @contextlib.asynccontextmanager
    async def _transaction(self, size: int) -> AsyncIterator[Connection]:
        """A transaction that has the time of as many batches as a group is large: it cannot be made smaller."""
        batches = max(1, size / USUAL_SIZE)
        async with self._database.transaction(DEADLINE_SECONDS * batches) as connection:
            if batches > 1:
                await prolong(connection, batches)
            yield connection

    async def _mark(self, entries: Sequence[JournalEntry], settled: Settled) -> None:
        refused = [entry for entry in entries if entry.entry.order.id in settled.refused]
        elsewhere = await self.refused_elsewhere.among(refused)
        await self._node.run(_mark, entries, settled, datetime.now(UTC))
        self.refused_elsewhere.note(elsewhere)
        for order_id, reason in settled.refused.items():
            self.refused += 1
            logger.error("Order %s, accepted without the database, is refused: %s", order_id, reason)


async def _book(
    connection: Connection, judgement: Judgement, orders: Sequence[TransferOrder], remembered: Mapping[int, int]
) -> Settled:
    refused = _reasons(judgement)
    posted, changed = await book_plans(connection, judgement.plans)
    await record_refusals(connection, orders, refused)
    known_posted, known_refused = _known_outcomes(orders, judgement.known)
    posted |= known_posted
    decided = await find_orders(connection, list(refused)) if refused else {}
    changed_ids = {account.id for account in changed}
    others = [account_id for account_id in remembered if account_id not in changed_ids]
    accounts = [*changed, *(await account_states(connection, others) if others else ())]
    _check_versions(accounts, changed_ids, remembered)
    return Settled(posted, refused | known_refused, [*posted.values(), *decided.values()], accounts)


def _known_outcomes(
    orders: Sequence[TransferOrder], known: Mapping[UUID, OrderRecord]
) -> tuple[dict[UUID, OrderRecord], dict[UUID, str]]:
    """Returns those of the orders that were booked before, and why those were refused that were."""
    posted, refused = {}, {}
    for order in orders:
        if order.id in known:
            try:
                posted[order.id] = known[order.id].answers(order.fingerprint)
            except OrderRefused:
                refused[order.id] = known[order.id].reason or ""
            except IdempotencyKeyReused as reused:
                refused[order.id] = reused.detail
    return posted, refused


def _reasons(judgement: Judgement) -> dict[UUID, str]:
    for refusal in judgement.refusals.values():
        if isinstance(refusal, UnknownAccount):
            raise SettlingStopped(f"an account that the journal knows is not in the database: {refusal.detail}")
    return {order_id: _reason(refusal) for order_id, refusal in judgement.refusals.items()}


def _reason(refusal: Problem) -> str:
    return f"{refusal.title}: {refusal.detail}"


def _check_versions(accounts: Sequence[AccountState], changed: Set[int], remembered: Mapping[int, int]) -> None:
    """A version that was below the remembered one: an older backup was restored, which has forgotten bookings.

    `changed` are the accounts that this transaction, which must not be committed then, has raised by one.
    """
    for account in accounts:
        found = account.version - (account.id in changed)
        if found < remembered[account.id]:
            raise SettlingStopped(
                f"account {account.id} is at version {found}, but was at version {remembered[account.id]}: an older "
                "backup was restored. Restore a newer one, or stop the service and replay what this node has kept: "
                "python -m aiopypay journal replay"
            )


def _versions(store: Store, entries: Sequence[JournalEntry]) -> dict[int, int]:
    """Returns the remembered versions of all accounts that the entries touch, by id in ascending order."""
    ids = {
        account_id
        for entry in entries
        for transfer in entry.entry.transfers
        for account_id in (transfer.from_account_id, transfer.to_account_id)
    }
    known = store.accounts(ids)
    return {account_id: known[account_id].version if account_id in known else 0 for account_id in sorted(ids)}


def _mark(store: Store, entries: Sequence[JournalEntry], settled: Settled, at: datetime) -> None:
    # Not synced: what a loss of power takes is found again in PostgreSQL, under its ids.
    with store.transaction(durable=False):
        store.mark_posted([entry.sequence for entry in entries if entry.entry.order.id in settled.posted], at)
        for entry in entries:
            if entry.entry.order.id in settled.refused:
                store.mark_refused(entry.sequence, settled.refused[entry.entry.order.id], at)
        store.remember_accounts(settled.accounts)
        store.remember_orders(settled.records)
        note_transfers(store, settled.records)
