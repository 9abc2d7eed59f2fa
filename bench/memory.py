"""The memory of the service: VmRSS, what of the process is in memory, libraries that it shares with others included."""

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from bench import wrk
from bench.processes import resident_megabytes
from bench.progress import doing, done
from bench.rows import Result
from bench.site import Site
from bench.stretches import CONNECTIONS

IDLE_SECONDS = 5
SAMPLE_SECONDS = 10


def idle(site: Site) -> float:
    """Megabytes, once the service has had nothing to do for some seconds."""
    time.sleep(IDLE_SECONDS)
    return resident_megabytes(site.service.pid)


def under_load(site: Site, seconds: int) -> list[float]:
    """Megabytes, every ten seconds, while transfers come in as fast as they are answered."""
    target = wrk.Target(site.service.port, site.users_file, CONNECTIONS)
    over = Event()
    with ThreadPoolExecutor(1) as threads:
        sampling = threads.submit(_samples, site.service.pid, over)
        doing(f"memory under load, for {seconds} s")
        try:
            wrk.send(target, "transfer", seconds, seed=1)
        finally:
            over.set()
    samples = sampling.result()
    done(
        f"memory under load: {samples[0]:.0f} MB at first, {samples[-1]:.0f} MB in the end, {max(samples):.0f} at most"
    )
    return samples


def growth(samples: Sequence[float]) -> float:
    """The median of the last third as a multiple of that of the first."""
    third = max(1, len(samples) // 3)
    return statistics.median(samples[-third:]) / statistics.median(samples[:third])


def results(idle_empty: float, idle_full: float, samples: Sequence[float]) -> list[Result]:
    """The rows of the table."""
    return [
        Result("memory-idle", "memory of the service: idle, MB", idle_empty, 80, at_least=False),
        Result(
            "memory-filled", "memory: with every account remembered for stand-in, MB", idle_full, 160, at_least=False
        ),
        Result(
            "memory-growth",
            "memory: growth under load, last third : first third",
            growth(samples),
            1.05,
            at_least=False,
        ),
    ]


def _samples(pid: int, over: Event) -> list[float]:
    samples = []
    while not over.wait(SAMPLE_SECONDS):
        samples.append(resident_megabytes(pid))
    return [*samples, resident_megabytes(pid)]
