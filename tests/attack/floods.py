"""Floods: an attack that runs in a process of its own, so that it does not slow down who measures."""

import asyncio
import contextlib
import multiprocessing
from collections.abc import Callable, Coroutine, Iterator
from multiprocessing.context import SpawnProcess
from typing import Any

Attack = Callable[..., Coroutine[Any, Any, None]]
END_SECONDS = 5

_spawn = multiprocessing.get_context("spawn")


class Flood:
    """A running attack. It goes on until `end`."""

    def __init__(self, process: SpawnProcess) -> None:
        self._process = process

    @property
    def is_running(self) -> bool:
        """Whether it has not ended by itself, as an attack that fails does."""
        return self._process.is_alive()

    def end(self) -> None:
        """Ends it; its connections break."""
        self._process.kill()
        self._process.join(END_SECONDS)


@contextlib.contextmanager
def flood(attack: Attack, *arguments: Any) -> Iterator[Flood]:
    """Runs a coroutine function of a module, until the end of the context. Its arguments are pickled."""
    process = _spawn.Process(target=_run, args=(attack, *arguments), daemon=True)
    process.start()
    running = Flood(process)
    try:
        yield running
    finally:
        running.end()


def _run(attack: Attack, *arguments: Any) -> None:
    asyncio.run(attack(*arguments))
