"""Runs a command of aiopypay that is killed with SIGKILL at a named point.

`python -m tests.outage.crash POINT COUNT serve` dies when it comes to POINT for the COUNT-th time. The product knows
nothing of it: functions of its modules are wrapped here, by their names.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg2

from aiopypay import __main__, database, group_commit
from aiopypay.stand_in import deputy, deputy_work, lifecycle, mode, recovery, settle
from aiopypay.stand_in.store import Store

Function = Callable[..., Any]


class Countdown:
    """Kills the process at the last of so many calls."""

    def __init__(self, count: int) -> None:
        self._left = count

    def come(self) -> None:
        """The point is reached once more."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _before(module: Any, name: str) -> Callable[[Countdown], None]:
    def arm(countdown: Countdown) -> None:
        wrapped: Function = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            countdown.come()
            return wrapped(*args, **kwargs)

        setattr(module, name, call)

    return arm


def _after(module: Any, name: str) -> Callable[[Countdown], None]:
    def arm(countdown: Countdown) -> None:
        wrapped: Function = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            result = wrapped(*args, **kwargs)
            countdown.come()
            return result

        setattr(module, name, call)

    return arm


def _between_log_and_tail(countdown: Countdown) -> None:
    """The entry is on disk in the store's log, and the second file does not know it yet."""
    acknowledge = Store._acknowledge

    def call(self: Store, durable: bool) -> None:
        if durable:
            countdown.come()
        acknowledge(self, durable)

    Store._acknowledge = call  # type: ignore[method-assign]


def _appended(countdown: Countdown) -> None:
    """The entry is written, in a transaction that has not ended."""
    store: Any = Store
    append = store.append

    def call(self: Store, entries: Any) -> None:
        append(self, entries)
        if entries:
            countdown.come()

    store.append = call


class _Booking:
    """Wraps the COMMIT of transactions that book: of batches online, or of settling."""

    def __init__(self, module: Any) -> None:
        self._booked: set[asyncio.Task[Any] | None] = set()
        book_plans: Callable[..., Awaitable[Any]] = module.book_plans

        async def book(connection: Any, plans: Any, step: Any) -> Any:
            booked = await book_plans(connection, plans, step)
            if plans:
                self._booked.add(asyncio.current_task())
            return booked

        module.book_plans = book

    def wrap(self, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None) -> None:
        commit = database._commit

        async def call(connection: Any) -> None:
            books = asyncio.current_task() in self._booked
            self._booked.discard(asyncio.current_task())
            if books and before is not None:
                before()
            await commit(connection)
            if books and after is not None:
                after()

        database._commit = call


def _lose_the_answer() -> None:
    """COMMIT was executed; nobody hears of it."""
    raise psycopg2.OperationalError("the answer to COMMIT is lost")


def _lose_the_connection() -> None:
    """COMMIT is never sent, though the plan is on disk. A connection lost within the transaction."""
    raise psycopg2.OperationalError("the connection is lost")


def _lose_before_commit() -> None:
    module: Any = group_commit
    book_plans = module.book_plans

    async def book(connection: Any, plans: Any, step: Any) -> Any:
        booked = await book_plans(connection, plans, step)
        if plans:
            _lose_the_connection()
        return booked

    module.book_plans = book


def _in_doubt(arm: Callable[[Countdown], None]) -> Callable[[Countdown], None]:
    def armed(countdown: Countdown) -> None:
        _Booking(group_commit).wrap(after=_lose_the_answer)
        arm(countdown)

    return armed


def _lost(arm: Callable[[Countdown], None]) -> Callable[[Countdown], None]:
    def armed(countdown: Countdown) -> None:
        _lose_before_commit()
        arm(countdown)

    return armed


POINTS: dict[str, Callable[[Countdown], None]] = {
    # Online.
    "before the plan's sync": _before(deputy_work, "write_plan"),
    "after the plan's sync": _after(deputy_work, "write_plan"),
    "before COMMIT": lambda countdown: _Booking(group_commit).wrap(before=countdown.come),
    "after COMMIT": lambda countdown: _Booking(group_commit).wrap(after=countdown.come),
    "before the record of an outcome": _before(deputy_work, "record"),
    "after the record of an outcome": _after(deputy_work, "record"),
    # As the database goes.
    "before a batch in doubt is adopted": _in_doubt(_before(deputy_work, "adopt_plans")),
    "after a batch in doubt is adopted": _in_doubt(_after(deputy_work, "adopt_plans")),
    "before a lost plan is withdrawn": _lost(_before(deputy_work, "withdraw_plan")),
    "after a lost plan is withdrawn": _lost(_after(deputy_work, "withdraw_plan")),
    # Without the database.
    "before the journal's sync": _appended,
    "between the journal's sync and its tail": _between_log_and_tail,
    "after the journal's sync": _after(deputy, "accept"),
    # Settling.
    "before COMMIT at settling": lambda countdown: _Booking(settle).wrap(before=countdown.come),
    "after COMMIT at settling": lambda countdown: _Booking(settle).wrap(after=countdown.come),
    "before entries are marked": _before(settle, "mark"),
    "after entries are marked": _after(settle, "mark"),
    "before switching online": _before(deputy.Deputy, "note_online"),
    "in the middle of switching online": _before(mode.ModeSwitch, "online"),
    "after switching online": _after(mode.ModeSwitch, "online"),
    "after the settled journal is pruned": _after(recovery, "_prune"),
    # At the next start.
    "before the last run's plan is adopted": _before(lifecycle, "adopt_plans"),
    "after the last run's plan is adopted": _after(lifecycle, "adopt_plans"),
}


def main() -> None:
    """Arms the point, and runs the command as the console script would."""
    point, count = sys.argv[1], int(sys.argv[2])
    sys.argv[1:3] = []
    POINTS[point](Countdown(count))
    __main__.main()


if __name__ == "__main__":
    main()
