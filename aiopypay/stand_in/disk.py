"""The node's disk: one thread that works on it, piece by piece, and whether it answers.

A sync that does not return can be ended by nobody, and the thread is in it. So the event loop never waits in a system
call on that disk, and whoever waits for the thread may give up: `in_time`. What was handed over stays handed over: the
thread does it when the disk goes on, or never, where the process ends before. Hanging is a state in memory, since a
note of it would lie on that same disk; it passes by itself once everything handed over is done.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from aiopypay.errors import DiskHangs

LOOK_SECONDS = 0.5
# A step has two syncs at most (SQLite's log begins anew, and takes a transaction). A disk that needs 2 s for each is
# slow, and no more than that. What is counted are looks: a process that was frozen itself has not looked.
SILENT_LOOKS = 10
END_SECONDS = 1.0

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Disk:
    """Does what it is handed in that order, off the event loop.

    A daemon thread: the process can end while a sync hangs. That is as a kill is to the store, which bears it.
    """

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._handed_over = 0
        self._waiting: set[asyncio.Future[Any]] = set()
        self._next_look: asyncio.TimerHandle | None = None
        self._silent_looks = 0
        self._steps_seen = 0
        self._hangs_since: float | None = None
        # Called on the event loop when it answers again.
        self.on_answer: list[Callable[[], None]] = []
        # Written by the thread alone.
        self._steps = 0
        self._done = 0
        self._thread = threading.Thread(target=self._work, name="stand-in", daemon=True)
        self._thread.start()

    @property
    def hangs(self) -> bool:
        """Whether nothing has moved for some seconds, and not everything handed over by then is done since."""
        return self._hangs_since is not None

    @property
    def silent_seconds(self) -> float | None:
        """For how long it has hung, None where it answers."""
        return None if self._hangs_since is None else time.monotonic() - self._hangs_since

    def step(self) -> None:
        """In the thread: some of the work is done, and the disk has answered."""
        self._steps += 1

    def do(self, work: Callable[[], object]) -> None:
        """Hands work over that tells nobody of its end. It must not raise."""
        self._tasks.put(work)
        self._handed_over += 1
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def ask(self, work: Callable[[], Result]) -> "asyncio.Future[Result]":
        """Hands work over; the future has its result, or what it raised, however long that takes.

        Who cancels the future does not stop the work.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()

        def answering() -> None:
            told: Callable[[], None]
            try:
                told = partial(_give, answer, work())
            except BaseException as error:  # noqa: BLE001 - told to whoever waits
                told = partial(_fail, answer, error)
            try:
                loop.call_soon_threadsafe(told)
            except RuntimeError:
                logger.debug("The service ended before the disk answered")

        self.do(answering)
        return answer

    def in_time(self, answer: "asyncio.Future[Result]") -> "asyncio.Future[Result]":
        """Returns the same answer, or one that raises DiskHangs as soon as the disk hangs. Raises it where it does."""
        if self._hangs_since is not None:
            raise DiskHangs
        shielded = asyncio.shield(answer)
        if shielded is not answer:
            self._waiting.add(shielded)
            shielded.add_done_callback(self._no_longer_waiting)
        return shielded

    def end(self) -> None:
        """Ends the thread once its work is done; does not wait for one that hangs."""
        if self._next_look is not None:
            self._next_look.cancel()
        self._tasks.put(None)
        if self._hangs_since is None:
            self._thread.join(END_SECONDS)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._steps += 1
            task()
            # Nothing of it is kept alive while the thread waits for more.
            del task
            self._done += 1

    def _no_longer_waiting(self, answer: "asyncio.Future[Any]") -> None:
        self._waiting.discard(answer)
        if not answer.cancelled():
            # Not everybody who may wait for an answer does in the end.
            answer.exception()

    def _look(self) -> None:
        self._next_look = None
        if self._done == self._handed_over:
            self._silent_looks = 0
            if self._hangs_since is not None:
                self._answers_again()
            return
        self._silent_looks = self._silent_looks + 1 if self._steps == self._steps_seen else 0
        self._steps_seen = self._steps
        if self._silent_looks == SILENT_LOOKS and self._hangs_since is None:
            self._declare()
        self._next_look = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _declare(self) -> None:
        self._hangs_since = time.monotonic() - SILENT_LOOKS * LOOK_SECONDS
        logger.critical("The disk of this node does not answer. Nothing is booked or changed until it does.")
        for answer in list(self._waiting):
            if not answer.done():
                answer.set_exception(DiskHangs())

    def _answers_again(self) -> None:
        logger.warning("The disk of this node answers again, after %.1f s.", self.silent_seconds)
        self._hangs_since = None
        for tell in self.on_answer:
            tell()


def _give(answer: "asyncio.Future[Result]", result: Result) -> None:
    if not answer.done():
        answer.set_result(result)


def _fail(answer: "asyncio.Future[Result]", error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)
        # It is told by whoever waits; where nobody does, the thread has noted it.
        answer.exception()
