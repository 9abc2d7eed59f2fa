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
from aiopypay.stand_in.known_orders import ORDERS_MAX
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.rates import Rates
from aiopypay.stand_in.reads import Reads
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


class Fill:
    """Reads page by page through the requests' own connections, giving way to them."""

    def __init__(
        self, database: Database, node: Node, deputy: Deputy, *, reads: Reads, rates: Rates, accounts_max: int
    ) -> None:
        self._database = database
        self._reads = reads
        self._rates = rates
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
        while not await self._fill_currencies():  # noqa: ASYNC110 - nobody can tell us; we must try
            await asyncio.sleep(RETRY_SECONDS)
        await self._fill_users()
        complete = await self._fill_accounts()
        if with_orders:
            await self._fill_orders()
        await self._finish(complete)
        took = (datetime.now(UTC) - started).total_seconds()
        logger.info(
            "Remembered %s users, %s accounts, %s orders in %.1f s.", self.users, self.accounts, self.orders, took
        )

    async def _fill_currencies(self) -> bool:
        try:
            await self._rates.follow(anew=True)
        except Problem as problem:
            logger.debug("The fill waits: %s", problem)
            return False
        return True

    async def _fill_users(self) -> None:
        after = 0
        while page := await self._page(partial(pages.users_after, user_id=after, limit=PAGE), _remember_users):
            after = page[-1].id
            self.users += len(page)

    async def _fill_accounts(self) -> bool:
        after = 0
        while page := await self._page(partial(pages.accounts_after, account_id=after, limit=PAGE), _remember_accounts):
            after = page[-1].id
            self.accounts += len(page)
            if self.accounts >= self._accounts_max:
                logger.warning("APP_OFFLINE_ACCOUNTS_MAX is reached: accounts above %s are not remembered.", after)
                return False
        return True

    async def _fill_orders(self) -> None:
        before: int | None = LARGEST_ID
        while before is not None and self.orders < ORDERS_MAX:
            ids, before = await self._page(partial(pages.orders_before, transfer_id=before, limit=PAGE))
            await self._remember_orders(ids)
        after: UUID | None = UUID(int=0)
        while before is None and after is not None:
            ids, after = await self._page(partial(pages.bare_orders_after, order_id=after, limit=PAGE))
            await self._remember_orders(ids)
        if before is None:
            await self._node.finish(_set, KEYS_COMPLETE)

    async def _remember_orders(self, ids: list[UUID]) -> None:
        if ids:
            await self._page(lambda c: find_orders(c, ids), _remember_orders)
            self.orders += len(ids)

    async def _finish(self, complete: bool) -> None:
        self.done = True
        if not complete or self._node.fenced:
            return
        await self._node.finish(_set, FILLED)
        self._deputy.filled = True

    async def _page(
        self, read: Callable[[Connection], Awaitable[Page]], remember: Callable[[Store, Page], None] | None = None
    ) -> Page:
        while True:
            epoch = self._deputy.switch.epoch
            try:
                async with self._database.transaction() as connection:
                    page = await read(connection)
                is_kept = remember is None or await self._reads.remember(epoch, remember, page)
            except Problem as problem:
                logger.debug("The fill waits: %s", problem)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if is_kept:
                if remember is not None:
                    await asyncio.sleep(PAUSE_SECONDS)
                return page


def _remember_users(store: Store, page: Iterable[KnownUser]) -> None:
    with store.transaction(durable=False):
        store.remember_users(page)


def _remember_accounts(store: Store, page: Iterable[AccountState]) -> None:
    with store.transaction(durable=False):
        store.remember_accounts(page)


def _remember_orders(store: Store, page: dict[UUID, OrderRecord]) -> None:
    with store.transaction(durable=False):
        store.remember_older_orders(page.values())


def _set(store: Store, name: str) -> None:
    with store.transaction(durable=True):
        store.set_setting(name, "yes")
