"""Who started the server: told by a file, so that the next run of a killed service takes over what it left running."""

import contextlib
import fcntl
import os
from pathlib import Path


class StarterFile:
    """Names the server that a service started. The service holds a lock on it for as long as it lives."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def claim(self, postmaster: int) -> None:
        """Remembers this process as the starter, unless another one that started a server here still lives."""
        if (descriptor := self._lock()) is not None:
            _overwrite(descriptor, str(postmaster))

    def take_over(self, postmaster: int) -> bool:
        """Whether the starter of this very server is dead; this process takes its place then."""
        if self._lock() is None:
            return False
        if self._path.read_text("ascii", "replace").strip() == str(postmaster):
            return True
        self.release()
        return False

    def forget(self) -> None:
        """Makes the server nobody's, unless its starter lives: no service stops it any more."""
        if (descriptor := self._lock()) is not None:
            _overwrite(descriptor, "")
        self.release()

    def release(self) -> None:
        """Gives up the lock, if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self) -> int | None:
        if self._descriptor is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self._path, flags, 0o600)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return self._descriptor
        self.release()
        return None


def _overwrite(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
