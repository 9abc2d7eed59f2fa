"""Waiting for a condition under a deadline: the only way these tests wait."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

POLL_SECONDS = 0.02


def wait_until(condition: Callable[[], bool], within_seconds: float, what: str) -> None:
    """Polls, blocking. Fails with `what` where the condition has not come true in time."""
    deadline = time.monotonic() + within_seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_seconds} s: {what}"
        time.sleep(POLL_SECONDS)


async def eventually(condition: Callable[[], bool | Awaitable[bool]], within_seconds: float, what: str) -> float:
    """Polls. Returns the seconds it took; fails with `what` where the condition has not come true in time."""
    started = time.monotonic()
    while True:
        outcome = condition()
        if await outcome if inspect.isawaitable(outcome) else outcome:
            return time.monotonic() - started
        assert time.monotonic() - started < within_seconds, f"not within {within_seconds} s: {what}"
        await asyncio.sleep(POLL_SECONDS)


class Stopwatch:
    """Seconds since it was made, on the monotonic clock."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self._started
