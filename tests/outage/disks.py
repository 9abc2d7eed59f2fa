"""Disks that are full, or hang, without filling or hanging the machine's."""

import contextlib
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

# The store's log may grow to some 64 MiB before it is folded. What is not used takes no memory.
TMPFS_MEBIBYTES = 96
BALLAST_BYTES = 256 * 1024
FREEZABLE_MEBIBYTES = 64


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[str | None]:
    """A tmpfs of its own in this directory. Yields why there is none, where mounting is not allowed."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = f"size={TMPFS_MEBIBYTES}m,mode=0700"
    mounted = subprocess.run(
        [_program("mount"), "-t", "tmpfs", "-o", options, "tmpfs", directory],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        yield mounted.stderr.strip() or "mount failed"
        return
    try:
        yield None
    finally:
        subprocess.run([_program("umount"), "--lazy", directory], check=True)


def fill_up(directory: Path, *, leave_bytes: int = 0) -> None:
    """Takes what is left of the disk, but for so much."""
    with (directory / "ballast").open("ab", buffering=0) as ballast:
        for size in (BALLAST_BYTES, 512):
            with contextlib.suppress(OSError):
                while _free_bytes(directory) - size >= leave_bytes and ballast.write(bytes(size)) == size:
                    pass


def make_room(directory: Path) -> None:
    """Gives it back."""
    (directory / "ballast").unlink()


def _free_bytes(directory: Path) -> int:
    return shutil.disk_usage(directory).free if directory.exists() else 0


def limit_files(pid: int, size: int) -> None:
    """Lets this process write no file beyond so many bytes: what it would add fails."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


def unlimit_files(pid: int) -> None:
    """Takes that limit back."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


def _program(name: str) -> str:
    return shutil.which(name) or f"/bin/{name}"


class FrozenDisk:
    """An ext4 of its own in this directory. While it is frozen, whoever writes to it hangs in the kernel, -9 or not."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def hang(self) -> None:
        """From now on nothing is written."""
        subprocess.run([_program("fsfreeze"), "--freeze", self._directory], check=True)

    def go_on(self) -> None:
        """What hung is done."""
        subprocess.run([_program("fsfreeze"), "--unfreeze", self._directory], check=False, capture_output=True)


@contextlib.contextmanager
def freezable_disk(directory: Path, image: Path) -> Iterator[FrozenDisk | str]:
    """Such a disk, in a file. Yields why there is none, where that is not allowed."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with image.open("wb") as file:
        file.truncate(FREEZABLE_MEBIBYTES << 20)
    commands: list[list[str | Path]] = [["mkfs.ext4", "-q", "-F", image], ["mount", "-o", "loop", image, directory]]
    for command in commands:
        if shutil.which(str(command[0])) is None or shutil.which("fsfreeze") is None:
            yield f"there is no {command[0]}, or no fsfreeze"
            return
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            yield done.stderr.strip() or f"{command[0]} failed"
            return
    disk = FrozenDisk(directory)
    try:
        yield disk
    finally:
        disk.go_on()
        subprocess.run([_program("umount"), "--lazy", directory], check=True)
