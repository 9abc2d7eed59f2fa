"""A real PostgreSQL of a test's own that can be killed, stopped, frozen and started again."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import psycopg2
from psycopg2.extensions import connection as PgConnection  # noqa: N812 - a class with a lower-case name
from psycopg2.extensions import make_dsn

from aiopypay.embedded import EmbeddedPostgres
from aiopypay.embedded.account import account_of_cluster
from aiopypay.embedded.processes import cluster_processes, send
from aiopypay.embedded.roles import ADMINISTRATOR, OWNER
from tests.cluster import share_password

from .waiting import wait_until

GONE_SECONDS = 10
FROZEN_SECONDS = 5
# Of connections beside the service's: a test that waits for them fails instead of hanging.
PATIENCE = {"connect_timeout": 5, "options": "-c statement_timeout=20s -c lock_timeout=10s", "tcp_user_timeout": 20_000}


class PostgresServer:
    """One cluster in a directory of its own. Everything here blocks; ids of processes are looked up in that cluster."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="aiopypay-", dir="/tmp"))
        self.embedded = EmbeddedPostgres(self.directory)
        share_password(self.embedded)
        self._databases = itertools.count(1)
        self._snapshots = itertools.count(1)
        self.database = "aiopypay"

    @property
    def dsn(self) -> str:
        """The connection string of the service's role, for the newest database."""
        return make_dsn(self.embedded.dsn, dbname=self.database)

    @property
    def administrator_dsn(self) -> str:
        """The connection string of the superuser, who may do what the service may not."""
        return make_dsn(self.dsn, user=ADMINISTRATOR)

    @property
    def owner_dsn(self) -> str:
        """The connection string of the role that owns the tables: migrations run as it."""
        return make_dsn(self.dsn, user=OWNER)

    @property
    def port(self) -> int:
        """Its port on 127.0.0.1."""
        return self.embedded.port

    def new_database(self) -> None:
        """Makes an empty database, which is meant from now on, in place of the one before."""
        before, self.database = self.database, "postgres"
        # Recovery after a crash syncs every file of the cluster, so that old ones would cost time. The drop syncs all
        # files but those of what it drops: it comes before there are new ones.
        if before.startswith("test_"):
            self.execute(f"DROP DATABASE {before} WITH (FORCE)")
        name = f"test_{next(self._databases)}"
        self.execute(f"CREATE DATABASE {name} OWNER {OWNER}")
        self.database = name

    def start(self) -> None:
        """Starts it, after a kill too; returns when it accepts connections."""
        self.embedded.start()

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stops it and waits until its last process is gone."""
        self.embedded.stop(mode)

    def stop_smart(self) -> None:
        """Lets nobody in from now on, and stops when the last one has gone. Returns when it refuses connections."""
        postmaster = self.embedded.pid
        assert postmaster is not None
        send(postmaster, signal.SIGTERM)
        wait_until(lambda: not self.accepts_connections(), GONE_SECONDS, "PostgreSQL lets nobody in")

    def snapshot(self) -> Path:
        """Copies the cluster as it is now, for which it is stopped and started again; returns where the copy lies."""
        copy = self.directory / f"snapshot-{next(self._snapshots)}"
        self.stop()
        _copy(self.embedded.cluster, copy)
        self.start()
        return copy

    def restore(self, snapshot: Path) -> None:
        """Puts the cluster back to what it was when it was copied, and starts it."""
        self.kill()
        shutil.rmtree(self.embedded.cluster)
        _copy(snapshot, self.embedded.cluster)
        self.start()

    def remove(self) -> None:
        """Ends it, whatever state it is in, and removes its data."""
        self.kill()
        shutil.rmtree(self.directory)

    def processes(self) -> list[int]:
        """The postmaster and all its children."""
        return cluster_processes(self.embedded.cluster)

    def kill(self) -> None:
        """kill -9 of the postmaster; returns when it and its orphaned backends are gone."""
        postmaster = self.embedded.pid
        if postmaster is not None:
            send(postmaster, signal.SIGKILL)
        for pid in self.processes():
            # Orphans end themselves, unless they are frozen.
            send(pid, signal.SIGCONT)
        try:
            wait_until(lambda: not self.processes(), GONE_SECONDS / 2, "the orphans of a killed postmaster end")
        except AssertionError:
            for pid in self.processes():
                send(pid, signal.SIGKILL)
            wait_until(lambda: not self.processes(), GONE_SECONDS, "killed processes end")

    def kill_backend(self, pid: int) -> None:
        """kill -9 of one backend: PostgreSQL ends all others too and recovers, while the postmaster goes on."""
        assert pid in self.processes()
        send(pid, signal.SIGKILL)

    @contextlib.contextmanager
    def frozen_backend(self, pid: int) -> Iterator[None]:
        """One backend stands still within, with the locks that it holds; where it ended before, nothing happens."""
        try:
            send(pid, signal.SIGSTOP)
            yield
        finally:
            send(pid, signal.SIGCONT)

    def freeze(self) -> None:
        """SIGSTOP to the postmaster and all of its children; returns when all of them stand still."""
        self.freeze_postmaster()
        for pid in self.processes():
            send(pid, signal.SIGSTOP)
        wait_until(lambda: all(map(_stands_still, self.processes())), FROZEN_SECONDS, "PostgreSQL is frozen")

    def freeze_postmaster(self) -> None:
        """SIGSTOP to the postmaster alone: new connections hang, those that there are go on."""
        postmaster = self.embedded.pid
        assert postmaster is not None
        send(postmaster, signal.SIGSTOP)
        wait_until(lambda: _stands_still(postmaster), FROZEN_SECONDS, "the postmaster is frozen")

    def thaw(self) -> None:
        """SIGCONT to all processes."""
        for pid in self.processes():
            send(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Frozen within, whatever happens there."""
        try:
            self.freeze()
            yield
        finally:
            self.thaw()

    @contextlib.contextmanager
    def connected(self, *, administrator: bool = False) -> Iterator[PgConnection]:
        """A blocking connection beside the service's, in autocommit: of the tables' owner, or of the superuser."""
        dsn = self.administrator_dsn if administrator else self.owner_dsn
        with contextlib.closing(psycopg2.connect(make_dsn(dsn, **PATIENCE))) as connection:
            connection.autocommit = True
            yield connection

    def execute(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Executes one statement as the superuser and returns its rows."""
        with self.connected(administrator=True) as connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []

    def execute_elsewhere(self, sql: str) -> None:
        """Executes a statement about databases, connected to none of them."""
        before, self.database = self.database, "postgres"
        try:
            self.execute(sql)
        finally:
            self.database = before

    def backends(self) -> list[int]:
        """The process ids of the service's backends."""
        rows = self.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'aiopypay' ORDER BY pid")
        return [pid for (pid,) in rows]

    def cancel_backends(self) -> int:
        """Cancels the running statement of each of the service's backends; returns how many there are."""
        return self._signal_backends("pg_cancel_backend")

    def terminate_backends(self) -> int:
        """Ends each of the service's backends; returns how many there were."""
        return self._signal_backends("pg_terminate_backend")

    def _signal_backends(self, function: str) -> int:
        sql = f"SELECT {function}(pid) FROM pg_stat_activity WHERE application_name = 'aiopypay'"
        return len(self.execute(sql))

    def waits_for_lock(self) -> bool:
        """Whether one of the service's backends waits for a lock."""
        sql = (
            "SELECT 1 FROM pg_stat_activity WHERE application_name = 'aiopypay' "
            "AND wait_event_type = 'Lock' AND state = 'active'"
        )
        return bool(self.execute(sql))

    @contextlib.contextmanager
    def starting_up(self) -> Iterator[None]:
        """Within, it has been started but does not accept connections yet (SQLSTATE 57P03); afterwards it does.

        It is held in recovery as a standby that serves nobody, and then promoted.
        """
        self.execute("ALTER SYSTEM SET hot_standby = off")
        self.stop()
        self._make_standby()
        self._control("-W", "-o", f"-p {self.port}", "-l", f"{self.embedded.cluster}/server.log", "start")
        try:
            wait_until(self._starts_up, GONE_SECONDS, "PostgreSQL says that it is starting up")
            yield
        finally:
            self.promote()
            self.start()
            self.execute("ALTER SYSTEM RESET hot_standby")

    def promote(self) -> None:
        """Makes a standby a primary; returns when it can be written."""
        self._control("-w", "promote")

    def _control(self, *arguments: str) -> None:
        program = self.embedded.program("pg_ctl")
        account = account_of_cluster(self.embedded.cluster, program.parent)
        process = account.popen([program, "-s", "-D", self.embedded.cluster, *arguments])
        assert process.wait(GONE_SECONDS) == 0

    def _make_standby(self) -> None:
        owner = self.embedded.cluster.stat()
        path = self.embedded.cluster / "standby.signal"
        path.touch(mode=0o600)
        os.chown(path, owner.st_uid, owner.st_gid)

    def _starts_up(self) -> bool:
        return self.embedded.is_running() and not self.accepts_connections()

    def wait_up(self) -> None:
        """Waits until it has recovered, where it does so by itself."""
        wait_until(self.accepts_connections, GONE_SECONDS, "PostgreSQL accepts connections")

    def accepts_connections(self) -> bool:
        """Whether a client gets in."""
        try:
            with self.connected():
                return True
        except psycopg2.OperationalError:
            return False


def _copy(source: Path, target: Path) -> None:
    """With owners and modes, which PostgreSQL looks at."""
    program = shutil.which("cp")
    assert program is not None
    subprocess.run([program, "-a", source, target], check=True)


def _stands_still(pid: int) -> bool:
    try:
        # The state follows the command's name, which stands in brackets.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TtZX"
    except FileNotFoundError:
        return True
