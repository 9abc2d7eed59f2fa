"""CPU time and memory as the kernel tells them."""

import os
import time

from bench.processes import (
    ProcessTimes,
    cpu_seconds,
    parse_resident_kilobytes,
    parse_stat,
    resident_megabytes,
    tree_ticks,
)

STAT = "42 (postgres: a) b (c)) S 7 42 42 0 -1 4194560 900 80 0 0 11 22 33 44 20 0 1 0 5000 200000000 3000\n"


def test_a_name_may_hold_spaces_and_parentheses() -> None:
    assert parse_stat(STAT) == ProcessTimes(pid=42, parent=7, ticks=11 + 22 + 33 + 44)


def test_a_tree_is_a_process_and_its_descendants_alone() -> None:
    processes = [
        ProcessTimes(1, 0, 1000),
        ProcessTimes(10, 1, 1),
        ProcessTimes(11, 10, 20),
        ProcessTimes(12, 11, 300),
        ProcessTimes(20, 1, 4000),
    ]
    assert tree_ticks(10, processes) == 321


def test_this_process_uses_time_and_memory() -> None:
    before = cpu_seconds(os.getpid())
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert cpu_seconds(os.getpid()) - before >= 0.02
    assert resident_megabytes(os.getpid()) > 1


def test_no_process_has_used_nothing() -> None:
    assert cpu_seconds(None) == 0


def test_resident_memory_is_in_kilobytes() -> None:
    assert parse_resident_kilobytes("Name:\tpython\nVmPeak:\t  900 kB\nVmRSS:\t  81920 kB\n") == 81920
