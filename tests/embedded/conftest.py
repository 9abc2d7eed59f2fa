"""Data directories for embedded servers, which are stopped and removed whatever a test did to them."""

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiopypay.embedded import EmbeddedPostgres
from aiopypay.embedded.processes import cluster_processes, send, wait_until


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """An empty data directory whose parent is open to other users, as root's PostgreSQL needs it."""
    directory = Path(tempfile.mkdtemp(prefix="aiopypay-embedded-")).resolve()
    yield directory
    for pid in cluster_processes(directory / "postgres"):
        send(pid, signal.SIGKILL)
    wait_until(lambda: not cluster_processes(directory / "postgres"), 10)
    shutil.rmtree(directory)


@pytest.fixture
def embedded(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A server that was not made yet."""
    server = EmbeddedPostgres(data_dir)
    yield server
    with contextlib.suppress(Exception):
        server.stop("immediate")


@pytest.fixture
def clean_environment() -> dict[str, str]:
    """This process's environment without the service's settings, for commands."""
    prefixes = ("APP_", "POSTGRES_", "DATABASE_", "PG")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
