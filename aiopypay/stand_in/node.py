"""The node: its store, used from one thread of its own, and whether it may stand in."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar
from uuid import UUID

from aiopypay.errors import StandInFenced, StartError
from aiopypay.stand_in.store import DuplicateEntry, Store, StoreDamaged, StoreFailed

logger = logging.getLogger(__name__)

P = ParamSpec("P")
Result = TypeVar("Result")
Item = TypeVar("Item")

MARK = "balances-are-kept"
# What is deferred waits so long, or until it weighs so much (in orders): a few milliseconds of work.
DEFERRED_SECONDS = 0.1
DEFERRED_MAX = 500


class Node:
    """Runs work on the store, in the order it was handed over, off the event loop.

    `fenced` says why the node does not stand in: a write failed, or the store is damaged. While online the service
    goes on all the same; but what it then books is not remembered, so a mark beside the store is removed (which
    works on a full disk, too), and after a restart the node stands in again only once everything was read anew.
    Where not even the mark can be removed, nothing may be booked any more: `check_may_book`.

    `keeps_balances`: its memory has followed everything since it was last read from the database.
    """

    def __init__(self, directory: Path) -> None:
        """Opens the store in `directory`. Raises StoreInUse, StartError."""
        self._mark = directory / MARK
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stand-in")
        self._store = self._opened(directory)
        self.keeps_balances = self._mark.exists()
        self._is_marked = self.keeps_balances
        self._fencing = threading.Lock()
        self._deferred: list[tuple[Callable[..., object], object]] = []
        self._deferred_weight = 0
        self._deferred_until: asyncio.TimerHandle | None = None
        self.node_id = self._store.node_id or UUID(int=0)
        self.fenced: str | None = self._store.damage
        if self._store.dropped:
            logger.warning(
                "The journal's torn last record was never acknowledged and is dropped: %s", self._store.dropped
            )
        if self.fenced:
            logger.critical("The stand-in store in %s is damaged: %s", directory, self.fenced)

    @property
    def is_damaged(self) -> bool:
        """Whether the store itself is damaged: then nothing is settled either, until the operator has looked."""
        return self._store.damage is not None

    def start_keeping(self) -> None:
        """From now on every batch is remembered."""
        self._mark.touch(0o600)
        _sync_directory(self._mark.parent)
        self.keeps_balances = self._is_marked = True

    def check_may_book(self) -> None:
        """Asked before something is booked that a fenced node does not remember.

        Raises StandInFenced where a restart would take this node's memory for current all the same.
        """
        if self.fenced is not None:
            if self._is_marked:
                raise StandInFenced(f"Nothing can be booked: the data directory cannot be written ({self.fenced})")
            self.keeps_balances = False

    async def run(self, work: Callable[Concatenate[Store, P], Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Returns what `work` on the store returns. Raises StandInFenced when the store fails.

        Work that has begun is finished even if the caller is cancelled.
        """
        return await self.start(work, *args, **kwargs)

    def start(
        self, work: Callable[Concatenate[Store, P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[None, None, Result]:
        """Hands work over at once; what it returns is to be awaited for what `run` returns or raises."""
        self._hand_over()
        return self._begin(partial(work, self._store, *args, **kwargs))

    def start_first(
        self, work: Callable[Concatenate[Store, P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[None, None, Result]:
        """Hands work over as `start` does, but before what is deferred, which it must not depend on."""
        beginning = self._begin(partial(work, self._store, *args, **kwargs))
        if self._deferred_weight >= DEFERRED_MAX:
            self._hand_over()
        return beginning

    def _begin(self, work: Callable[[], Result]) -> Coroutine[None, None, Result]:
        return self._outcome(asyncio.wrap_future(self._thread.submit(work)))

    async def _outcome(self, future: "asyncio.Future[Result]") -> Result:
        try:
            return await asyncio.shield(future)
        except (StoreFailed, StoreDamaged, DuplicateEntry) as error:
            self.fence(str(error))
            raise StandInFenced(f"This node cannot stand in: {error}") from error

    def post(self, work: Callable[Concatenate[Store, P], Result], *args: P.args, **kwargs: P.kwargs) -> None:
        """Hands work over without waiting for it. What fails fences the node."""
        self._hand_over()
        self._submit(partial(work, self._store, *args, **kwargs), self._look_at)

    def defer(self, work: Callable[[Store, list[Item]], object], item: Item, *, weight: int) -> None:
        """Hands `work(store, items)` over as `post` does, but not yet: the items of a while are done at once.

        It is done before whatever else is handed over later, but for `start_first`.
        """
        self._deferred.append((work, item))
        self._deferred_weight += weight
        if self._deferred_until is None:
            self._deferred_until = asyncio.get_running_loop().call_later(DEFERRED_SECONDS, self._hand_over)

    def fence(self, reason: str) -> None:
        """From now on this node does not stand in. Called from either thread; done when it returns."""
        with self._fencing:
            if self.fenced is None:
                logger.critical("This node no longer stands in: %s", reason)
                try:
                    distrust(self._mark.parent)
                    self._is_marked = False
                except OSError as error:
                    logger.critical("Nothing is booked any more: %s cannot be removed (%s)", self._mark, error)
                self.fenced = reason

    async def close(self) -> None:
        """Finishes what was handed over and closes the store."""
        self._hand_over()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._store.close)
        self._thread.shutdown()

    def _hand_over(self) -> None:
        if self._deferred_until is not None:
            self._deferred_until.cancel()
            self._deferred_until = None
        deferred, self._deferred, self._deferred_weight = self._deferred, [], 0
        for work, items in groupby(deferred, key=itemgetter(0)):
            self._submit(partial(work, self._store, [item for _, item in items]), self._look_at_deferred)

    def _submit(self, work: Callable[[], object], look_at: "Callable[[Future[object]], None]") -> None:
        """In the thread, the outcome is looked at before any other work begins."""
        self._thread.submit(work).add_done_callback(look_at)

    def _opened(self, directory: Path) -> Store:
        """Opens the store in the thread that uses it, where what the verification needed serves as its cache.

        What one thread frees the C library hardly ever gives to another: there would be two caches' worth of memory.
        """
        try:
            return self._thread.submit(Store.open, directory).result()
        except BaseException as error:
            self._thread.shutdown()
            if isinstance(error, StoreFailed):
                raise StartError(f"{error}: make room, or repair the disk, and start again") from error
            raise

    def _look_at_deferred(self, future: "Future[object]") -> None:
        """What was booked is not remembered: from now on this memory is out of date, for reads too."""
        if future.exception() is not None:
            self.keeps_balances = False
        self._look_at(future)

    def _look_at(self, future: "Future[object]") -> None:
        error = future.exception()
        if error is not None:
            self.fence(str(error) or type(error).__name__)


def distrust(directory: Path) -> None:
    """Makes the next start forget what is remembered and read it anew: the operator says the database is right."""
    (directory / MARK).unlink(missing_ok=True)
    _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
