"""What the operator has decided about a database that was put back from an older backup, carried out to its end.

To replay: what this node remembers and the database lacks is made and booked again, under the old ids, in the order of
the old transfers. To trust: the database is taken as it is. Either way, what the journal still holds is settled
afterwards; what names somebody or something that is not known to be the same there becomes *unplaced*, and is listed;
and what is remembered of users and accounts is forgotten in the end, and read anew.

All of it can be done again from its beginning, and is, after a kill or a loss of the database at any point: each write
is a step from the moment that is known, users and accounts are recognised, and orders are found under their ids. Where
the database is replaced once more, the next step finds another moment, and the operator decides again.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

from aiopypay.database import Database
from aiopypay.stand_in import pages
from aiopypay.stand_in import restoration_work as work
from aiopypay.stand_in.deputy import Deputy
from aiopypay.stand_in.deputy_work import as_state, as_user
from aiopypay.stand_in.elsewhere import ChangesElsewhere
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.rebooking import Rebooked, missing_orders, rebook
from aiopypay.stand_in.records import Entry
from aiopypay.stand_in.restoration_report import Report, Unplaced
from aiopypay.stand_in.restored import Recognised, misplaced, same_currencies, sort_accounts, sort_users
from aiopypay.stand_in.store import Store
from aiopypay.statements import Connection
from aiopypay.store import recreation
from aiopypay.store.moments import Step
from aiopypay.store.orders import find_orders

PAGE = 100
# Of a page; each of its statements has the usual time.
DEADLINE_SECONDS = 15.0
OLDER_DIRECTORY = "the data directory was put back from a copy, and this order was never answered from it"
GIVEN_UP = "the database was put back from a backup that lacks it, and was taken as it is"

logger = logging.getLogger(__name__)


class Restoration:
    """One run of it, from the beginning to the end; `writes` is false for one that only tells what would be done."""

    def __init__(
        self, database: Database, node: Node, deputy: Deputy, elsewhere: ChangesElsewhere, *, writes: bool
    ) -> None:
        self._database = database
        self._node = node
        self._deputy = deputy
        self._moments = deputy.moments
        self._elsewhere = elsewhere
        self._writes = writes
        self._recognised = Recognised()
        self._report = Report()

    async def preview(self) -> Report:
        """Returns what a replay would do. What is not covered then is told only by the replay itself."""
        await self._replay()
        await self._look_at_journal()
        return self._report

    async def carry_out(self) -> Report:
        """Does what was decided; nothing is blocked any more then. Raises what Moments.writing raises."""
        blocked = self._moments.blocked
        assert blocked is not None  # noqa: S101 - the caller looked
        await self._raise_sequences()
        if blocked.decision == "replay":
            await self._replay()
        else:
            await self._give_up()
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

    async def _raise_sequences(self) -> None:
        users, accounts = await work.highest_ids(self._node)
        transfers = max([0, *[transfer_id for _, transfer_id, _ in await work.remembered_orders(self._node)]])
        async with self._transaction() as (connection, _):
            await recreation.raise_sequences(connection, users=users, accounts=accounts, transfers=transfers)

    async def _currencies(self) -> None:
        known = await self._node.finish(Store.currencies)
        async with self._transaction() as (connection, _):
            missing = await recreation.missing_currencies(connection, known)
            same = same_currencies(known, await pages.currencies(connection))
            added = await recreation.put_currencies_back(connection, missing) if self._writes else missing
        for currency in [*same, *added]:
            self._recognised.currencies.add(currency.id)
            self._recognised.accounts.add(currency.external_account_id)
        self._report.currencies_added += len(added)
        self._report.strangers += [f"currency {one.id}" for one in known if one.id not in self._recognised.currencies]

    async def _users(self) -> None:
        after = 0
        while page := await self._node.finish(Store.users_after, after, PAGE):
            after = page[-1].id
            async with self._transaction() as (connection, _):
                found = await recreation.find_users(connection, [as_user(user) for user in page])
                users = sort_users(page, found)
                if self._writes:
                    for user in users.missing:
                        await recreation.put_user_back(connection, as_user(user), user.version, user.created_at)
                    for user in users.older:
                        await recreation.renew_user(connection, as_user(user))
            self._recognised.users |= {user.id for user in page} - {user.id for user in users.strangers}
            self._report.users_added += len(users.missing)
            self._report.users_renewed += len(users.older)
            self._report.strangers += [f"user {user.id} ({user.username})" for user in users.strangers]

    async def _accounts(self) -> None:
        after = 0
        while page := await self._node.finish(Store.accounts_after, after, PAGE):
            after = page[-1].id
            async with self._transaction() as (connection, _):
                found = await recreation.find_accounts(connection, [account.id for account in page])
                accounts = sort_accounts(page, found, self._recognised)
                if self._writes:
                    for account in accounts.missing:
                        await recreation.put_account_back(connection, as_state(account))
            self._recognised.accounts |= {one.id for one in page} - {one.id for one in accounts.strangers}
            self._report.accounts_added += len(accounts.missing)
            self._report.strangers += [f"account {account.id}" for account in accounts.strangers]

    async def _orders(self) -> None:
        order_ids = [order_id for *_, order_id in await work.remembered_orders(self._node)]
        for start in range(0, len(order_ids), PAGE):
            records = await self._node.finish(work.records_of, order_ids[start : start + PAGE])
            async with self._transaction() as (connection, step):
                found = await find_orders(connection, [record.id for record in records])
                missing = missing_orders(records, found, self._recognised)
                rebooked = await rebook(connection, missing, step) if self._writes else Rebooked.all_of(missing)
            unplaced = [*missing.unplaced, *rebooked.unplaced]
            if self._writes:
                # What is remembered is what the database holds by now, so that a retry gets the same answer from both.
                booked = [*found.values(), *rebooked.records]
                await self._node.finish(work.note_outcomes, booked, unplaced, datetime.now(UTC))
            self._report.orders_found += len(found)
            self._report.orders_booked += rebooked.booked
            self._report.unplaced += [Unplaced.of_record(record, reason) for record, reason in unplaced]

    async def _give_up(self) -> None:
        """What was answered and the database lacks is not booked by a later replay either."""
        order_ids = [order_id for *_, order_id in await work.remembered_orders(self._node)]
        for start in range(0, len(order_ids), PAGE):
            records = await self._node.finish(work.records_of, order_ids[start : start + PAGE])
            async with self._transaction() as (connection, _):
                found = await find_orders(connection, [record.id for record in records])
            given_up = [(record, GIVEN_UP) for record in records if record.id not in found]
            await self._node.finish(work.note_outcomes, list(found.values()), given_up, datetime.now(UTC))
            self._report.unplaced += [Unplaced.of_record(record, reason) for record, reason in given_up]

    async def _look_at_journal(self) -> None:
        """What names somebody or something else cannot be settled, and does not keep the rest from it."""
        after, reasons, groups = 0, dict[int, str](), dict[object, str]()
        pending: list[tuple[int, Entry]] = []
        while page := await self._node.finish(work.pending_after, after, PAGE):
            after = page[-1][0]
            reasons |= await self._misplaced(page)
            pending += page
        for sequence, entry in pending:
            if sequence in reasons and entry.order.group is not None:
                groups[entry.order.group] = reasons[sequence]
        for sequence, entry in pending:
            # Those that were sent together are booked together or not at all.
            reason = reasons.get(sequence) or groups.get(entry.order.group)
            if reason is not None:
                reasons[sequence] = reason
                self._report.unplaced.append(Unplaced.of_entry(entry, reason))
        if reasons and self._writes:
            await self._node.finish(work.mark_unplaced, reasons, datetime.now(UTC))

    async def _misplaced(self, page: Sequence[tuple[int, Entry]]) -> dict[int, str]:
        orders = [entry.order for _, entry in page]
        named = {user.id for _, entry in page if entry.identities for user in entry.identities.users}
        async with self._transaction() as (connection, _):
            found = await find_orders(connection, [order.id for order in orders])
            users = await recreation.users_by_id(connection, named)
            accounts = await recreation.find_accounts(connection, {i for order in orders for i in order.account_ids})
        reasons: dict[int, str] = {}
        for sequence, entry in page:
            there = found.get(entry.order.id)
            if there is not None and (there.user_id, there.fingerprint) == (
                entry.order.user_id,
                entry.order.fingerprint,
            ):
                continue
            reason = self._why_not(entry) or misplaced(entry, users, accounts)
            if reason is not None:
                reasons[sequence] = reason
        return reasons

    def _why_not(self, entry: Entry) -> str | None:
        blocked = self._moments.blocked
        is_directory = blocked is not None and blocked.is_directory
        return OLDER_DIRECTORY if is_directory and entry.in_doubt and not entry.told else None

    async def _forget(self) -> None:
        await self._deputy.forget_memory()
        await self._elsewhere.start_anew()

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[tuple[Connection, Step]]:
        """A step of the node's, or one that reads for a preview and goes nowhere."""
        if self._writes:
            async with (
                self._moments.turn,
                self._moments.stepping(self._database, deadline_seconds=DEADLINE_SECONDS) as stepped,
            ):
                yield stepped
        else:
            async with self._database.transaction(DEADLINE_SECONDS) as connection:
                yield connection, self._moments.step_to_nowhere()
