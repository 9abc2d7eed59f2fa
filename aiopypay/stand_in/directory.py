"""The directory of a store: its files, the lock on it, and how it is made.

It is made in an order in which every state that a kill can leave is told from damage: the key, then the store (built
beside its place, whole once it has its name), then the tail file. While the tail file is missing nothing was ever
kept, and making it goes on where it stopped; should the store hold anything by then, the tail file was lost.
"""

import fcntl
import os
from pathlib import Path

from aiopypay.errors import StartError
from aiopypay.stand_in.failures import StoreInUse

STORE, KEY, TAIL, LOCK = "store.sqlite", "key", "tail", "lock"
WAL, SHARED_MEMORY = STORE + "-wal", STORE + "-shm"
MAKING = ".making"
# Beside the store: what it remembers has followed the database since it was read.
MARK = "balances-are-kept"


def prepare_directory(directory: Path) -> None:
    """Makes the directory, for its owner alone. Raises StartError where that cannot be."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_mode & 0o077:
            directory.chmod(0o700)
    except OSError as error:
        raise StartError(f"The stand-in store cannot be kept in {directory} ({error.strerror}).") from error


def take_lock(directory: Path) -> int:
    """Takes the directory for this process until the descriptor returned is closed. Raises StoreInUse, StartError."""
    path = directory / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StartError(f"The stand-in store cannot be kept in {directory} ({error.strerror}).") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise StoreInUse(
            f"{directory} is in use by another aiopypay (process {holder}): "
            "stop that one first, or set APP_DATA_DIR to another directory."
        ) from None
    except OSError:
        # The number of the process is a courtesy that a full disk may refuse; the lock is taken.
        pass
    return descriptor


def trust(directory: Path) -> None:
    """Lets the next start rely on what is remembered: from now on it follows the database. Raises OSError."""
    (directory / MARK).touch(0o600)
    _sync(directory)


def distrust(directory: Path) -> None:
    """Makes the next start forget what is remembered and read it anew. Raises OSError."""
    (directory / MARK).unlink(missing_ok=True)
    _sync(directory)


def present(directory: Path) -> set[str]:
    """Returns which of the store's files are there."""
    return {name for name in (STORE, WAL, KEY, TAIL) if os.path.lexists(directory / name)}


def write_whole(path: Path, content: bytes) -> None:
    """Writes a private file that is there whole, on disk, or not at all. Raises OSError."""
    making = path.with_name(path.name + MAKING)
    making.unlink(missing_ok=True)
    descriptor = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    put_in_place(making, path)


def put_in_place(making: Path, path: Path) -> None:
    """Gives a finished file its name, on disk. Raises OSError."""
    making.replace(path)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
