"""The data directory's own small files: made whole or not at all, readable by their owner only."""

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from aiopypay.embedded.errors import EmbeddedError

OPEN_TO_OTHERS = 0o077
LOCK_SECONDS = 120
LOCK_POLL_SECONDS = 0.05


@contextlib.contextmanager
def os_errors_explained(directory: Path) -> Iterator[None]:
    """Raises as `EmbeddedError` what the operating system says about the data directory."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "free some space, or set APP_DATA_DIR to a directory on another disk."
        else:
            advice = f"set APP_DATA_DIR to a directory that user {os.geteuid()} can write."
        where = error.filename or directory
        raise EmbeddedError(f"The data directory cannot be used ({where}: {error.strerror}): {advice}") from error


def prepare_directory(directory: Path) -> None:
    """Makes the data directory with mode 0700. One that is there and empty is closed; one in use keeps its mode.

    Raises `EmbeddedError` for a directory in which other users could replace our files.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    if not status.st_mode & OPEN_TO_OTHERS:
        return
    if status.st_uid == os.geteuid() and not any(directory.iterdir()):
        directory.chmod(0o700)
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EmbeddedError(f"{directory} is writable by other users: set APP_DATA_DIR to a directory of its own.")


def let_others_pass(directory: Path) -> None:
    """Lets other users through to what they own inside, without letting them list it."""
    mode = stat.S_IMODE(directory.stat().st_mode)
    if not mode & 0o001:
        directory.chmod(mode | 0o011)


def write_once(path: Path, text: str) -> str:
    """Writes a private file durably unless it is there. Returns what it holds in the end, without line ends."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text("ascii", "replace").strip()
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    return text


def overwrite(path: Path, text: str) -> None:
    """Writes anew, durably, a file that is there; its owner and mode stay. Follows no link."""
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(directory: Path) -> None:
    """Makes renames inside the directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Holds the lock on a file, whose descriptor is yielded: a child that inherits it holds the lock as well.

    Raises `EmbeddedError` after `LOCK_SECONDS`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _lock(descriptor, path)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise EmbeddedError(f"Another process is starting or stopping the database and holds {path}.") from None
            time.sleep(LOCK_POLL_SECONDS)
        else:
            return
