"""The node: its store, used from one thread of its own, and whether it may stand in."""

import asyncio
import errno
import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar
from uuid import UUID

from aiopypay.errors import DiskHangs, StandInFenced, StartError
from aiopypay.stand_in.contents import Contents, contents_of
from aiopypay.stand_in.directory import MARK, distrust, trust
from aiopypay.stand_in.disk import Disk
from aiopypay.stand_in.store import DuplicateEntry, Store, StoreDamaged, StoreFailed, StoreFull

logger = logging.getLogger(__name__)

P = ParamSpec("P")
Result = TypeVar("Result")
Item = TypeVar("Item")

# What is deferred waits so long, or until it weighs so much (in orders): a few milliseconds of work.
DEFERRED_SECONDS = 0.1
DEFERRED_MAX = 500


class Node:
    """Runs work on the store, in the order it was handed over, off the event loop.

    `fenced` says why the node does not stand in: a write failed, or the store is damaged. While online the service
    goes on all the same; but what it then books is not remembered, so a mark beside the store is removed (which
    works on a full disk, too), and after a restart the node stands in again only once everything was read anew.
    Where not even the mark can be removed, nothing may be booked any more: `check_may_book`. A disk that was full, and
    nothing else, can end without a restart: `reopen`.

    `keeps_balances`: its memory has followed everything since it was last read from the database. `contents` are the
    figures of what the store holds, as of the last piece of work that is done. `disk` tells whether the disk answers;
    where it does not, whoever awaits `run` or `start` gets DiskHangs, and what they handed over is done later all the
    same.
    """

    def __init__(self, directory: Path) -> None:
        """Opens the store in `directory`. Raises StoreInUse, StartError."""
        self._mark = directory / MARK
        self.disk = Disk()
        self._store = self._opened(directory)
        self.keeps_balances = self._mark.exists()
        self._is_marked = self.keeps_balances
        self._deferred: list[tuple[Callable[..., object], object]] = []
        self._deferred_weight = 0
        self._deferred_until: asyncio.TimerHandle | None = None
        self.node_id = self._store.node_id or UUID(int=0)
        self.fenced: str | None = self._store.damage
        # Whether it is fenced for a full disk alone.
        self._was_full = False
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

    @property
    def is_unsure(self) -> bool:
        """Whether what a transaction wrote that failed may be found when the store is opened again."""
        return self._store.is_unsure

    async def start_keeping(self) -> None:
        """From now on every batch is remembered. Raises StandInFenced where the mark that says so cannot be made."""
        await self.finish(self._make_mark)

    @property
    def cannot_book(self) -> str | None:
        """Why nothing can be booked: a restart would take this fenced node's memory for current all the same."""
        if self.fenced is None or not self._is_marked:
            return None
        return f"Nothing can be booked: the data directory cannot be written ({self.fenced})"

    def check_may_book(self) -> None:
        """Asked before something is booked that a fenced node does not remember. Raises StandInFenced."""
        if self.fenced is not None:
            if self.cannot_book is not None:
                raise StandInFenced(self.cannot_book)
            self.keeps_balances = False

    async def run(self, work: Callable[Concatenate[Store, P], Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Returns what `work` on the store returns. Raises StandInFenced when the store fails.

        Raises DiskHangs where the disk does not answer; if it did when the work was handed over, the work may still be
        done. Work that has begun is finished even if the caller is cancelled.
        """
        return await self.start(work, *args, **kwargs)

    async def finish(self, work: Callable[Concatenate[Store, P], Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Does as `run` does, but waits for the disk: for what nobody waits for, and no lock is held over."""
        return await asyncio.shield(self.owe(work, *args, **kwargs))

    def owe(
        self, work: Callable[Concatenate[Store, P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Future[Result]":
        """Hands over work that must be done whether or not the disk answers: `disk.in_time` is for who waits."""
        self._hand_over()
        return self._ask(work, *args, **kwargs)

    def start(
        self, work: Callable[Concatenate[Store, P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Future[Result]":
        """Hands work over at once; what it returns is to be awaited for what `run` returns or raises."""
        self._hand_over()
        return self._begin(work, *args, **kwargs)

    def start_first(
        self, work: Callable[Concatenate[Store, P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Future[Result]":
        """Hands work over as `start` does, but before what is deferred, which it must not depend on."""
        beginning = self._begin(work, *args, **kwargs)
        if self._deferred_weight >= DEFERRED_MAX:
            self._hand_over()
        return beginning

    def post(self, work: Callable[Concatenate[Store, P], Result], *args: P.args, **kwargs: P.kwargs) -> None:
        """Hands work over without waiting for it. What fails fences the node."""
        self._hand_over()
        self.disk.do(partial(self._do, partial(work, self._store, *args, **kwargs)))

    def defer(self, work: Callable[[Store, list[Item]], object], item: Item, *, weight: int) -> None:
        """Hands `work(store, items)` over as `post` does, but not yet: the items of a while are done at once.

        It is done before whatever else is handed over later, but for `start_first`.
        """
        self._deferred.append((work, item))
        self._deferred_weight += weight
        if self._deferred_until is None:
            self._deferred_until = asyncio.get_running_loop().call_later(DEFERRED_SECONDS, self._hand_over)

    @property
    def may_reopen(self) -> bool:
        """Whether nothing has failed but that the disk was full: all that was acknowledged is there, and no more."""
        return self._was_full and not (self.is_unsure or self.is_damaged or self._is_marked)

    async def reopen(self, prepare: Callable[[Store], None]) -> None:
        """Ends the fence of a node that `may_reopen`, once `prepare` has shown that the disk can be written.

        Memory that has followed everything is trusted again, over restarts too. Whatever fails before that is done, the
        node is fenced. Raises StandInFenced, DiskHangs.
        """
        await self.run(self._reopen, prepare)

    def fence(self, reason: str, *, was_full: bool = False) -> None:
        """From now on this node does not stand in; done when it returns. In the thread: the disk may hang in it."""
        self._was_full = was_full and (self.fenced is None or self._was_full)
        is_first = self.fenced is None
        if is_first:
            logger.critical("This node no longer stands in: %s", reason)
        if is_first or self._is_marked:
            try:
                distrust(self._mark.parent)
                self._is_marked = False
            except OSError as error:
                logger.critical("Nothing is booked any more: %s cannot be removed (%s)", self._mark, error)
        if is_first:
            self.fenced = reason

    async def close(self) -> None:
        """Finishes what was handed over and closes the store; leaves both to a kill where the disk hangs."""
        try:
            await self.disk.in_time(self.owe(Store.close))
        except DiskHangs:
            logger.critical("Stopping without the disk, which does not answer. The next start finds what is booked.")
        self.disk.end()

    def _begin(
        self, work: Callable[Concatenate[Store, P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Future[Result]":
        if self.disk.hangs:
            raise DiskHangs
        return self.disk.in_time(self._ask(work, *args, **kwargs))

    def _ask(
        self, work: Callable[Concatenate[Store, P], Result], *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Future[Result]":
        return self.disk.ask(partial(self._answered, partial(work, self._store, *args, **kwargs)))

    def _hand_over(self) -> None:
        if self._deferred_until is not None:
            self._deferred_until.cancel()
            self._deferred_until = None
        deferred, self._deferred, self._deferred_weight = self._deferred, [], 0
        for work, items in groupby(deferred, key=itemgetter(0)):
            together = partial(work, self._store, [item for _, item in items])
            self.disk.do(partial(self._do, together, is_memory=True))

    def _answered(self, work: Callable[[], Result]) -> Result:
        """In the thread: the node is fenced by the time that the failure is told, and before any other work begins."""
        try:
            return work()
        except (StoreFailed, StoreDamaged, DuplicateEntry) as error:
            self.fence(str(error), was_full=isinstance(error, StoreFull))
            raise StandInFenced(f"This node cannot stand in: {error}") from error
        finally:
            self._count()

    def _do(self, work: Callable[[], object], *, is_memory: bool = False) -> None:
        """In the thread, as `_answered`. `is_memory`: it is what was booked, without which memory is out of date."""
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - whatever it is, memory no longer follows
            if is_memory:
                self.keeps_balances = False
            self.fence(str(error) or type(error).__name__, was_full=isinstance(error, StoreFull))
        finally:
            self._count()

    def _count(self) -> None:
        try:
            self.contents = contents_of(self._store)
        except Exception:
            logger.debug("The store cannot be counted", exc_info=True)

    def _opened(self, directory: Path) -> Store:
        """Opens the store in the thread that uses it, where what the verification needed serves as its cache.

        What one thread frees the C library hardly ever gives to another: there would be two caches' worth of memory.
        """
        opening: Future[tuple[Store, Contents]] = Future()
        self.disk.do(partial(_open, directory, opening))
        try:
            store, self.contents = opening.result()
        except BaseException as error:
            self.disk.end()
            if isinstance(error, StoreFailed):
                raise StartError(f"{error}: make room, or repair the disk, and start again") from error
            raise
        store.stepped = self.disk.step
        return store

    def _make_mark(self, _: Store) -> None:
        if self.fenced is not None:
            # What the next start drops, as the mark is gone, may have been judged again by now.
            raise StandInFenced(f"This node cannot stand in: {self.fenced}")
        self._trust()

    def _reopen(self, store: Store, prepare: Callable[[Store], None]) -> None:
        if not self.may_reopen:
            raise StandInFenced(f"This node cannot stand in: {self.fenced}")
        prepare(store)
        if self.keeps_balances:
            self._trust()
        self._was_full, self.fenced = False, None

    def _trust(self) -> None:
        # It may be there, too, where it cannot be made for certain: then it is removed with the fence.
        self._is_marked = True
        try:
            trust(self._mark.parent)
        except OSError as error:
            failure = StoreFull if error.errno == errno.ENOSPC else StoreFailed
            raise failure(f"{self._mark} cannot be made ({error.strerror})") from error
        self.keeps_balances = True


def _open(directory: Path, opening: "Future[tuple[Store, Contents]]") -> None:
    try:
        store = Store.open(directory)
        opening.set_result((store, contents_of(store)))
    except BaseException as error:  # noqa: BLE001 - told to who opens it
        opening.set_exception(error)
