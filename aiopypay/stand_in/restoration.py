"""What the operator has decided about a database that was put back from an older backup, carried out to its end.

To replay: what this node remembers and the database lacks is made and booked again, under the old ids, in the order of
the old transfers. To trust: the database is taken as it is. Either way, what the journal still holds is settled
afterwards; entries that name somebody or something else there become *unplaced*, and are listed; and what was
remembered is forgotten and read anew.

All of it can be done again from its beginning, and is, after a kill or a loss of the database at any point: each write
is a step from the moment that is known, users and accounts are recognised, and orders are found under their ids. Where
the database is replaced once more, the next step finds another moment, and the operator decides again.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from functools import partial

from aiopypay.database import Database
from aiopypay.stand_in import restoration_work as work
from aiopypay.stand_in.deputy import Deputy
from aiopypay.stand_in.deputy_work import as_state, as_user
from aiopypay.stand_in.elsewhere import ChangesElsewhere
from aiopypay.stand_in.moments import Decision
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.rebooking import Rebooked, missing_orders, rebook
from aiopypay.stand_in.records import Entry
from aiopypay.stand_in.restoration_report import Report, Unplaced
from aiopypay.stand_in.restored import Strangers, misplaced, sort_accounts, sort_users
from aiopypay.stand_in.store import Store
from aiopypay.statements import Connection
from aiopypay.store import recreation
from aiopypay.store.moments import Step
from aiopypay.store.orders import find_orders

PAGE = 200
OLDER_DIRECTORY = "the data directory was put back from a copy, and this order was never answered from it"

logger = logging.getLogger(__name__)


class Restoration:
    """One decision at a time. `progress` says how far it has come."""

    def __init__(self, database: Database, node: Node, deputy: Deputy, elsewhere: ChangesElsewhere) -> None:
        self._database = database
        self._node = node
        self._deputy = deputy
        self._moments = deputy.moments
        self._elsewhere = elsewhere
        self._strangers = Strangers()
        self._report = Report()
        self._writes = True
        self.progress = ""

    async def begin(self, decision: Decision) -> None:
        """Takes the decision, for good. Raises what Moments.adopt raises."""
        users, accounts, transfers = await self._node.run(work.highest_ids)
        prepare = partial(recreation.raise_sequences, users=users, accounts=accounts, transfers=transfers)
        await self._moments.adopt(self._database, decision, prepare)

    async def preview(self) -> Report:
        """Returns what a replay would do. What is not covered then is told only by the replay itself."""
        self._strangers, self._report, self._writes = Strangers(), Report(), False
        await self._replay()
        await self._look_at_journal()
        return self._report

    async def carry_out(self) -> Report:
        """Does what was decided; nothing is blocked any more then. Raises what Moments.writing raises."""
        blocked = self._moments.blocked
        assert blocked is not None  # noqa: S101 - the caller looked
        self._strangers, self._report, self._writes = Strangers(), Report(), True
        if blocked.decision == "replay":
            await self._replay()
        await self._look_at_journal()
        await self._forget()
        await self._moments.unblock(self._database)
        logger.warning("Decided and done, to %s: %s.", blocked.decision, self._report.told())
        return self._report

    async def _replay(self) -> None:
        await self._currencies()
        await self._users()
        await self._accounts()
        await self._orders()

    async def _currencies(self) -> None:
        known = await self._node.run(Store.currencies)
        async with self._transaction() as (connection, _):
            missing = await recreation.missing_currencies(connection, known)
            if self._writes:
                await recreation.put_currencies_back(connection, missing)
        self._report.currencies_added += len(missing)

    async def _users(self) -> None:
        after = 0
        while page := await self._node.run(Store.users_after, after, PAGE):
            after = page[-1].id
            async with self._transaction() as (connection, _):
                found = await recreation.find_users(connection, [as_user(user) for user in page])
                users = sort_users(page, found)
                if self._writes:
                    for user in users.missing:
                        await recreation.put_user_back(connection, as_user(user), user.version, user.created_at)
                    for user in users.older:
                        await recreation.renew_user(connection, as_user(user))
            self._strangers.users |= users.strangers
            self._report.users_added += len(users.missing)
            self._report.users_renewed += len(users.older)
            self._report.strangers += [
                f"user {user.id} ({user.username})" for user in page if user.id in users.strangers
            ]

    async def _accounts(self) -> None:
        after = 0
        while page := await self._node.run(Store.accounts_after, after, PAGE):
            after = page[-1].id
            async with self._transaction() as (connection, _):
                found = await recreation.find_accounts(connection, [account.id for account in page])
                accounts = sort_accounts(page, found, self._strangers)
                if self._writes:
                    for account in accounts.missing:
                        await recreation.put_account_back(connection, as_state(account))
            self._strangers.accounts |= accounts.strangers
            self._report.accounts_added += len(accounts.missing)
            self._report.strangers += [f"account {account_id}" for account_id in sorted(accounts.strangers)]

    async def _orders(self) -> None:
        order_ids = await self._node.run(work.remembered_orders)
        for start in range(0, len(order_ids), PAGE):
            self.progress = f"{start} of {len(order_ids)} orders"
            records = await self._node.run(work.records_of, order_ids[start : start + PAGE])
            async with self._transaction() as (connection, step):
                found = await find_orders(connection, [record.id for record in records])
                missing = missing_orders(records, found, self._strangers)
                rebooked = await rebook(connection, missing, step) if self._writes else Rebooked.all_of(missing)
            unplaced = [*missing.unplaced, *rebooked.unplaced]
            if unplaced and self._writes:
                await self._node.run(work.list_unplaced, unplaced, datetime.now(UTC))
            self._report.orders_found += len(found)
            self._report.orders_booked += rebooked.booked
            self._report.unplaced += [Unplaced.of_record(record, reason) for record, reason in unplaced]

    async def _look_at_journal(self) -> None:
        """What names somebody or something else cannot be settled, and does not keep the rest from it."""
        after = 0
        while page := await self._node.run(work.pending_after, after, PAGE):
            after = page[-1][0]
            reasons = await self._misplaced(page)
            if reasons and self._writes:
                await self._node.run(work.mark_unplaced, reasons, datetime.now(UTC))
            self._report.unplaced += [
                Unplaced.of_entry(entry, reasons[sequence]) for sequence, entry in page if sequence in reasons
            ]

    async def _misplaced(self, page: Sequence[tuple[int, Entry]]) -> dict[int, str]:
        orders = [entry.order for _, entry in page]
        named = {user.id for _, entry in page if entry.identities for user in entry.identities.users}
        async with self._transaction() as (connection, _):
            found = await find_orders(connection, [order.id for order in orders])
            users = await recreation.users_by_id(connection, named)
            accounts = await recreation.find_accounts(connection, {i for order in orders for i in order.account_ids})
        reasons: dict[int, str] = {}
        for sequence, entry in page:
            reason = None if entry.order.id in found else self._why_not(entry) or misplaced(entry, users, accounts)
            if reason is not None:
                reasons[sequence] = reason
        return reasons

    def _why_not(self, entry: Entry) -> str | None:
        blocked = self._moments.blocked
        is_directory = blocked is not None and blocked.is_directory
        return OLDER_DIRECTORY if is_directory and entry.in_doubt and not entry.told else None

    async def _forget(self) -> None:
        self._deputy.filled = False
        while await self._node.run(work.forget_everything):
            pass
        await self._deputy.forget_memory()
        await self._elsewhere.start_anew()

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[tuple[Connection, Step]]:
        """A step of the node's, or one that reads for a preview and goes nowhere."""
        if self._writes:
            async with self._moments.turn, self._moments.stepping(self._database) as stepped:
                yield stepped
        else:
            async with self._database.transaction() as connection:
                yield connection, self._moments.step_to_nowhere()
