"""Tells the cluster's own processes from others, by /proc: a process id in a file may be stale, or another's by now."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

POLL_SECONDS = 0.02


def postmaster_pid(cluster: Path) -> int | None:
    """The process id of the server that runs on this cluster, or None where none does, whatever its file says."""
    pid = recorded_pid(cluster)
    return pid if pid is not None and _works_on(pid, cluster) else None


def recorded_pid(cluster: Path) -> int | None:
    """The process id in the cluster's postmaster.pid, dead or alive."""
    try:
        first_line = (cluster / "postmaster.pid").read_text("ascii", "replace").partition("\n")[0]
    except FileNotFoundError:
        return None
    return int(first_line) if first_line.isdigit() and int(first_line) > 1 else None


def cluster_processes(cluster: Path) -> list[int]:
    """The postmaster and its children, also those that outlive a killed postmaster for a moment."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if _works_on(pid, cluster)]


def exists(pid: int) -> bool:
    """Whether the kernel knows this process, be it a zombie."""
    return Path(f"/proc/{pid}").exists()


def send(pid: int, signal_number: int) -> None:
    """Sends a signal to a process that may have just ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal_number)


def wait_until(condition: Callable[[], bool], timeout_seconds: float) -> bool:
    """Polls. Returns whether the condition came true in time."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _works_on(pid: int, cluster: Path) -> bool:
    """All of PostgreSQL's processes work in the cluster's directory, moved or not. A zombie has none any more."""
    try:
        return Path(f"/proc/{pid}/cwd").samefile(cluster)
    except PermissionError:
        # Root in a container may lack the right to look into processes of other users, but sees their arguments.
        return _command_line_names(pid, cluster)
    except OSError:
        return False


def _command_line_names(pid: int, cluster: Path) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return len(arguments) > 2 and arguments[0].endswith(b"postgres") and os.fsencode(cluster) in arguments
