"""Filling the node's memory in the background: every currency, user, account and, newest first, every order."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar
from uuid import UUID

from aiopypay.database import Database
from aiopypay.errors import Problem
from aiopypay.stand_in import pages
from aiopypay.stand_in.acceptance import KEYS_COMPLETE
from aiopypay.stand_in.deputy import Deputy
from aiopypay.stand_in.deputy_work import FILLED
from aiopypay.stand_in.elsewhere import ChangesElsewhere
from aiopypay.stand_in.known_orders import ORDERS_MAX
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.rates import Rates
from aiopypay.stand_in.records import KnownUser
from aiopypay.stand_in.store import Store
from aiopypay.statements import Connection
from aiopypay.store.accounts import AccountState
from aiopypay.store.orders import OrderRecord, find_orders
from aiopypay.store.transfers import LARGEST_ID

# Small enough that a payment behind a page in the store's queue hardly notices.
PAGE = 500
PAUSE_SECONDS = 0.01
RETRY_SECONDS = 1.0

logger = logging.getLogger(__name__)

Page = TypeVar("Page")
Orders = dict[UUID, OrderRecord]


class Fill:
    """Reads page by page through the requests' own connections, giving way to them."""

    def __init__(
        self,
        database: Database,
        node: Node,
        deputy: Deputy,
        *,
        rates: Rates,
        elsewhere: ChangesElsewhere,
        accounts_max: int,
    ) -> None:
        self._database = database
        self._rates = rates
        self._elsewhere = elsewhere
        self._node = node
        self._deputy = deputy
        self._accounts_max = accounts_max
        self.users = 0
        self.accounts = 0
        self.orders = 0
        self.done = False

    async def run(self, *, with_orders: bool) -> None:
        """Reads everything once; returns when it is remembered. `with_orders`: the orders, too."""
        started = datetime.now(UTC)
        self.users = self.accounts = self.orders = 0
        self.done = False
        while not await self._fill_currencies():  # noqa: ASYNC110 - nobody can tell us; we must try
            await asyncio.sleep(RETRY_SECONDS)
        complete = await self._fill_users()
        complete &= await self._fill_accounts()
        if with_orders:
            await self._fill_orders()
        await self._finish(complete)
        took = (datetime.now(UTC) - started).total_seconds()
        logger.info(
            "Remembered %s users, %s accounts, %s orders in %.1f s.", self.users, self.accounts, self.orders, took
        )

    async def _fill_currencies(self) -> bool:
        try:
            return await self._rates.follow(anew=True) or self._node.fenced is not None
        except Problem as problem:
            logger.debug("The fill waits: %s", problem)
            return False

    async def _fill_users(self) -> bool:
        after, times_anew, complete = 0, self._elsewhere.times_anew("users"), True
        while page := await self._page(partial(pages.users_after, user_id=after, limit=PAGE), _remember_users):
            after = page[-1].id
            self.users += len(page)
            if self.users >= self._accounts_max:
                logger.warning("APP_OFFLINE_ACCOUNTS_MAX is reached: users above %s are not remembered.", after)
                complete = False
                break
        if not complete and self._elsewhere.lacks_tables:
            await self._node.run(_forget_users_above, after)
        self._elsewhere.note_filled("users", times_anew)
        return complete

    async def _fill_accounts(self) -> bool:
        after, times_anew, complete = 0, self._elsewhere.times_anew("accounts"), True
        while page := await self._page(partial(pages.accounts_after, account_id=after, limit=PAGE), _remember_accounts):
            after = page[-1].id
            self.accounts += len(page)
            if self.accounts >= self._accounts_max:
                logger.warning("APP_OFFLINE_ACCOUNTS_MAX is reached: accounts above %s are not remembered.", after)
                complete = False
                break
        if not complete and self._elsewhere.lacks_tables:
            # Those that batches have left here were not read anew.
            await self._node.run(_forget_accounts_above, after)
        self._elsewhere.note_filled("accounts", times_anew)
        return complete

    async def _fill_orders(self) -> None:
        before: int | None = LARGEST_ID
        while before is not None and self.orders < ORDERS_MAX:
            records, before = await self._page(partial(_orders_before, transfer_id=before), _remember_orders)
            self.orders += len(records)
        after: UUID | None = UUID(int=0)
        while before is None and after is not None:
            records, after = await self._page(partial(_bare_orders_after, order_id=after), _remember_orders)
            self.orders += len(records)
        if before is None and not self._deputy.forgotten.is_set():
            await self._node.finish(_set, KEYS_COMPLETE)

    async def _finish(self, complete: bool) -> None:
        self.done = True
        is_overtaken = self._elsewhere.lacks_tables or self._deputy.forgotten.is_set()
        if complete and not self._node.fenced and not is_overtaken:
            await self._node.finish(_set, FILLED)
            # What was forgotten meanwhile is filled anew.
            self._deputy.filled = not self._deputy.forgotten.is_set()

    async def _page(
        self, read: Callable[[Connection], Awaitable[Page]], remember: Callable[[Store, Page], None]
    ) -> Page:
        while True:
            try:
                page = await self._deputy.moments.learn(self._database, read, remember)
            except Problem as problem:
                logger.debug("The fill waits: %s", problem)
                page = None
            await asyncio.sleep(RETRY_SECONDS if page is None else PAUSE_SECONDS)
            if page is not None:
                return page


async def _orders_before(connection: Connection, transfer_id: int) -> tuple[Orders, int | None]:
    ids, before = await pages.orders_before(connection, transfer_id, PAGE)
    return await find_orders(connection, ids), before


async def _bare_orders_after(connection: Connection, order_id: UUID) -> tuple[Orders, UUID | None]:
    ids, after = await pages.bare_orders_after(connection, order_id, PAGE)
    return await find_orders(connection, ids), after


def _remember_users(store: Store, page: Iterable[KnownUser]) -> None:
    with store.transaction(durable=False):
        store.remember_users(page)


def _remember_accounts(store: Store, page: Iterable[AccountState]) -> None:
    with store.transaction(durable=False):
        store.remember_accounts(page)


def _remember_orders(store: Store, page: tuple[Orders, object]) -> None:
    with store.transaction(durable=False):
        store.remember_older_orders(page[0].values())


def _forget_users_above(store: Store, user_id: int) -> None:
    with store.transaction(durable=False):
        store.forget_users(above=user_id)
        store.set_setting(FILLED, "no")


def _forget_accounts_above(store: Store, account_id: int) -> None:
    with store.transaction(durable=False):
        store.forget_accounts(above=account_id)
        store.set_setting(FILLED, "no")


def _set(store: Store, name: str) -> None:
    with store.transaction(durable=True):
        store.set_setting(name, "yes")
