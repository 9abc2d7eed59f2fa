"""Starts and ends the server's processes on a cluster that exists."""

import secrets
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psycopg2

from aiopypay.embedded.account import Account
from aiopypay.embedded.binaries import Binaries
from aiopypay.embedded.cluster import explained
from aiopypay.embedded.errors import EmbeddedError
from aiopypay.embedded.processes import cluster_processes, exists, postmaster_pid, recorded_pid, send, wait_until

# Recovery after a crash replays at most max_wal_size; on a slow disk that takes minutes.
START_SECONDS = 300
ANSWER_SECONDS = 30
STOP_SECONDS = 30
ORPHANS_SECONDS = 30
LOG_SIZE_MAX = 10_000_000
# Below the kernel's ephemeral ports, which outgoing connections borrow, and above those of known services.
PORTS = range(20_000, 30_000)

StopMode = Literal["fast", "immediate"]
# https://www.postgresql.org/docs/current/server-shutdown.html
SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


def launch(cluster: Path, binaries: Binaries, account: Account, port: int) -> None:
    """Starts the postmaster and returns when it accepts connections.

    Whatever interrupts it, a signal included, leaves no server behind. Raises `EmbeddedError`.
    """
    log = _rotated_log(cluster)
    log_size = log.stat().st_size if log.exists() else 0
    # pg_ctl gives the postmaster a session of its own and leaves it to init, so that no zombie remains here.
    options: list[str | Path] = [
        "-D",
        cluster,
        "-l",
        log,
        "-o",
        f"-p {port}",
        "-w",
        "-t",
        str(START_SECONDS),
        "-s",
        "start",
    ]
    process = account.popen([binaries.program("pg_ctl"), *options])
    try:
        exit_status = process.wait()
    except BaseException:
        while process.poll() is None:
            _signal_postmaster(cluster, signal.SIGINT)
            with suppress(Exception):
                process.wait(0.1)
        stop(cluster, "fast")
        raise
    if exit_status != 0:
        raise EmbeddedError(f"The embedded PostgreSQL did not start: {_last_words(log, log_size)} (Log: {log})")


def stop(cluster: Path, mode: StopMode) -> bool:
    """Stops the server and waits until its last process is gone. Returns whether there was one.

    What does not stop fast within `STOP_SECONDS` is stopped at once, which costs a recovery at the next start.
    """
    if postmaster_pid(cluster) is None:
        return False
    for number in (SIGNALS[mode], signal.SIGQUIT):
        _signal_postmaster(cluster, number)
        # A frozen process acts on no signal before it goes on.
        for pid in cluster_processes(cluster):
            send(pid, signal.SIGCONT)
        if wait_until(lambda: not cluster_processes(cluster), STOP_SECONDS):
            return True
    raise EmbeddedError(f"The embedded PostgreSQL (process {recorded_pid(cluster)}) does not stop: end it with kill.")


def wait_for_answer(dsn: str, cluster: Path) -> bool:
    """Returns when the server lets the service in: True; or when it ended: False, for it may have been killed just now.

    Raises `EmbeddedError` if neither happens within `ANSWER_SECONDS`.
    """
    failures: list[str] = []

    def answers() -> bool:
        try:
            psycopg2.connect(dsn, connect_timeout=2).close()
        except psycopg2.OperationalError as error:
            failures.append(str(error).strip().splitlines()[-1])
            return False
        return True

    if not wait_until(lambda: answers() or postmaster_pid(cluster) is None, ANSWER_SECONDS):
        raise EmbeddedError(
            f"The embedded PostgreSQL (process {recorded_pid(cluster)}) runs but does not answer: {failures[-1]} "
            f"Stop it with ./run.sh db stop, and see {cluster / 'server.log'}."
        )
    return postmaster_pid(cluster) is not None


def clear_remains(cluster: Path) -> None:
    """Makes sure that nothing of a killed server is in the way of a new one. Raises `EmbeddedError`.

    A second postmaster beside backends of the first would destroy data, so they are waited for.
    """
    if not wait_until(lambda: not cluster_processes(cluster), ORPHANS_SECONDS):
        pids = ", ".join(map(str, cluster_processes(cluster)))
        raise EmbeddedError(f"Processes of a killed PostgreSQL still work on {cluster}: end them with kill {pids}.")
    pid = recorded_pid(cluster)
    # PostgreSQL clears the file of a dead process itself, and refuses where another process has that id by now.
    if pid is not None and exists(pid):
        (cluster / "postmaster.pid").unlink(missing_ok=True)


def check_port_is_free(port: int, port_file: Path) -> None:
    """Raises `EmbeddedError` if another program listens on the port."""
    if not port_is_free(port):
        raise EmbeddedError(
            f"Port {port} on 127.0.0.1, where the embedded PostgreSQL listens, is in use by another program: "
            f"end that, or write another port into {port_file}."
        )


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1."""
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A free port to keep. Raises `EmbeddedError` where there is none."""
    for _ in range(1000):
        port = secrets.choice(PORTS)
        if port_is_free(port):
            return port
    raise EmbeddedError(f"No port from {PORTS.start} to {PORTS.stop - 1} on 127.0.0.1 is free.")


def _signal_postmaster(cluster: Path, number: signal.Signals) -> None:
    pid = postmaster_pid(cluster)
    if pid is not None:
        send(pid, number)


def _rotated_log(cluster: Path) -> Path:
    log = cluster / "server.log"
    if log.exists() and log.stat().st_size > LOG_SIZE_MAX:
        log.replace(log.with_suffix(".log.1"))
    return log


def _last_words(log: Path, since: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(since)
            return explained(file.read(1_000_000).decode(errors="replace"))
    except FileNotFoundError:
        return "it wrote no log."
