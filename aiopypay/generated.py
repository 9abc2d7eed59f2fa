"""Secrets that the service generates for itself: one file each in the data directory, for its owner alone."""

import os
import secrets
from pathlib import Path

from aiopypay.errors import StartError


def generated_secret(path: Path, bytes_of_chance: int) -> str:
    """Returns the secret in the file, which is made where it is missing.

    The file is there whole, on disk, or not at all; of two processes that make it at once both get the one that was
    kept. Raises StartError.
    """
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _keep(path, secrets.token_urlsafe(bytes_of_chance) + "\n")
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise StartError(f"cannot keep {path} ({reason}): set APP_DATA_DIR to a writable directory") from error
    if not secret:
        raise StartError(f"{path} is empty: remove it, and another one is generated")
    return secret


def _keep(path: Path, content: str) -> None:
    """Writes under a name of its own, syncs, then gives it the name, unless another process was first."""
    making = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(making)
        except FileExistsError:
            return
    finally:
        making.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
