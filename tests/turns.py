"""Whose turn the machine is, of several processes that run tests: most share it, some tests need it for themselves."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


class Turns:
    """Two locks in a directory that all processes of a run share. They go with the process that holds them."""

    def __init__(self, directory: Path) -> None:
        self._gate = directory / "gate.lock"
        self._machine = directory / "machine.lock"

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Within, no test runs that needs the machine for itself."""
        # Whoever waits for the machine alone keeps the gate closed meanwhile: nobody new comes in before them.
        with _locked(self._gate, fcntl.LOCK_EX):
            machine = contextlib.ExitStack()
            machine.enter_context(_locked(self._machine, fcntl.LOCK_SH))
        with machine:
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Within, no other test runs."""
        with _locked(self._gate, fcntl.LOCK_EX), _locked(self._machine, fcntl.LOCK_EX):
            yield


@contextlib.contextmanager
def _locked(file: Path, kind: int) -> Iterator[None]:
    with file.open("a") as lock:
        fcntl.flock(lock, kind)
        yield
