"""What processes cost, as the kernel counts it in /proc."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """A process, its parent, and the clock ticks that it and its children that have ended used, threads included."""

    pid: int
    parent: int
    ticks: int


def parse_stat(text: str) -> ProcessTimes:
    """Reads a /proc/PID/stat. The program's name stands in parentheses and may hold any character, these too."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    # utime, stime, cutime, cstime; see proc_pid_stat(5).
    return ProcessTimes(int(head.split()[0]), int(fields[1]), sum(int(ticks) for ticks in fields[11:15]))


def tree_ticks(root: int, processes: Iterable[ProcessTimes]) -> int:
    """The ticks of a process and all its descendants."""
    children: dict[int, list[ProcessTimes]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process)
        if process.pid == root:
            ticks = process.ticks
    waiting = list(children.get(root, []))
    while waiting:
        process = waiting.pop()
        ticks += process.ticks
        waiting += children.get(process.pid, [])
    return ticks


def cpu_seconds(root: int | None) -> float:
    """The CPU time that a process and its descendants, living and ended, have used so far; 0 for no process."""
    if root is None:
        return 0.0
    return tree_ticks(root, _running()) / TICKS_PER_SECOND


def resident_megabytes(pid: int) -> float:
    """VmRSS: what of the process is in memory now, libraries that it shares with others included."""
    status = Path(f"/proc/{pid}/status").read_text()
    return parse_resident_kilobytes(status) / 1024


def parse_resident_kilobytes(status: str) -> int:
    """Reads VmRSS out of a /proc/PID/status."""
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1])


def _running() -> list[ProcessTimes]:
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                found.append(parse_stat((directory / "stat").read_text(errors="replace")))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found
