"""The embedded PostgreSQL server of one data directory."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from aiopypay.embedded import launch
from aiopypay.embedded.account import Account, account_for_new_cluster, account_of_cluster
from aiopypay.embedded.binaries import Binaries, find_binaries
from aiopypay.embedded.cluster import make_cluster
from aiopypay.embedded.errors import EmbeddedError, StoppedByOperator
from aiopypay.embedded.files import let_others_pass, locked, os_errors_explained, prepare_directory, write_once
from aiopypay.embedded.processes import postmaster_pid
from aiopypay.embedded.roles import ADMINISTRATOR, OWNER, SERVICE, Credentials, local_dsn, separate
from aiopypay.embedded.starter import StarterFile

logger = logging.getLogger(__name__)

# pg_ctl hands these paths to a shell.
UNSAFE_IN_PATHS = set("\"'`$\\\n\r")


class EmbeddedPostgres:
    """One PostgreSQL cluster, `data_dir`/postgres, and the server on it.

    Beside it lie the passwords of its roles, `postgres.port`, `postgres.lock`, `postgres.starter` and, while the
    operator keeps the server stopped, `postgres.stopped`. Methods block; they raise `EmbeddedError`. Processes that use
    the same directory at the same time wait for each other.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self.credentials = Credentials(self.data_dir)
        self.port_file = self.data_dir / "postgres.port"
        self._mark_file = self.data_dir / "postgres.stopped"
        self._lock_file = self.data_dir / "postgres.lock"
        self._starter = StarterFile(self.data_dir / "postgres.starter")
        self._started_pid: int | None = None

    @property
    def cluster(self) -> Path:
        """PostgreSQL's own data directory, as the kernel names it."""
        return self.data_dir.resolve() / "postgres"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None while no server runs on this cluster."""
        with os_errors_explained(self.data_dir):
            return postmaster_pid(self.cluster)

    def is_running(self) -> bool:
        """Whether a postmaster runs on this cluster, be it frozen or in recovery."""
        return self.pid is not None

    @property
    def port(self) -> int:
        """The port on 127.0.0.1. Raises `EmbeddedError` before the cluster was made."""
        text = self._read(self.port_file)
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
            raise EmbeddedError(f"{self.port_file} must hold a port from 1 to 65535, for example 25432.")
        return int(text)

    @property
    def dsn(self) -> str:
        """The libpq connection string of the service's role. Raises `EmbeddedError` before the cluster was made."""
        return self._dsn(SERVICE)

    @property
    def owner_dsn(self) -> str:
        """The same of the role that owns the tables: for migrations, and for who corrects something by hand."""
        return self._dsn(OWNER)

    @property
    def administrator_dsn(self) -> str:
        """The same of PostgreSQL's superuser, for whom nothing is forbidden."""
        return self._dsn(ADMINISTRATOR)

    def _dsn(self, role: str) -> str:
        return local_dsn(self.port, role, self._read(self.credentials.files[role]))

    def _passwords(self) -> dict[str, str]:
        return {role: self._read(file) for role, file in self.credentials.files.items()}

    def program(self, name: str) -> Path:
        """The path of one of PostgreSQL's programs, such as psql, of the cluster's version if there is a cluster."""
        return self._binaries().program(name)

    def initialise(self) -> None:
        """Makes the cluster unless it is there. Never changes the version of one that is."""
        with self._locked() as lock:
            self._initialise(lock)

    def start(self, *, for_operator: bool = False) -> bool:
        """Makes the cluster if need be and starts the server; returns when it accepts connections.

        True if this call started it, False if it was running. Raises `StoppedByOperator` while the mark is set.
        A server that runs for the operator is nobody's to stop but theirs (`stop_if_started`).
        """
        with self._locked() as lock:
            binaries, account = self._initialise(lock)
            if self.stopped_by_operator:
                raise StoppedByOperator("The embedded PostgreSQL was stopped: start it with ./run.sh db start.")
            if (pid := self.pid) is not None and launch.wait_for_answer(self.dsn, self.cluster):
                if for_operator:
                    self._starter.forget()
                elif self._started_pid is None and self._starter.take_over(pid):
                    self._started_pid = pid
                self._separate_roles()
                return False
            launch.clear_remains(self.cluster)
            launch.check_port_is_free(self.port, self.port_file)
            try:
                launch.launch(self.cluster, binaries, account, self.port)
                launch.wait_for_answer(self.dsn, self.cluster)
                self._separate_roles()
                self._remember_start(for_operator)
            except BaseException:
                launch.stop(self.cluster, "fast")
                raise
            return True

    def stop(self, mode: launch.StopMode = "fast") -> bool:
        """Stops the server and waits until its last process is gone. Returns whether it was running."""
        if not self.cluster.exists():
            return False
        with self._locked():
            stopped = launch.stop(self.cluster, mode)
        self._starter.release()
        return stopped

    def stop_if_started(self) -> bool:
        """Stops the server if it is the very one that this object started, or took over from a killed process.

        Another may run by now. Returns whether it was stopped.
        """
        try:
            return self._started_pid is not None and self.pid == self._started_pid and self.stop()
        finally:
            self._starter.release()

    @property
    def stopped_by_operator(self) -> bool:
        """Whether the operator's mark is set, which keeps `start` from starting the server."""
        return self._mark_file.exists()

    def set_operator_mark(self) -> None:
        """Sets the mark: the server is to stay stopped until it is cleared."""
        with os_errors_explained(self.data_dir):
            prepare_directory(self.data_dir)
            # Empty, so that it can be set on a full disk.
            self._mark_file.touch(mode=0o600)

    def clear_operator_mark(self) -> None:
        """Clears the mark, if it is set."""
        with os_errors_explained(self.data_dir):
            self._mark_file.unlink(missing_ok=True)

    def _separate_roles(self) -> None:
        if separate(self.port, self._passwords()):
            logger.warning("The embedded PostgreSQL has a role each now for the service, its tables, and its operator.")

    def _remember_start(self, for_operator: bool) -> None:
        pid = self.pid
        if pid is None:
            raise EmbeddedError(f"The embedded PostgreSQL ended right after its start: see {self.cluster}/server.log.")
        if not for_operator:
            self._started_pid = pid
            self._starter.claim(pid)

    def _initialise(self, lock: int) -> tuple[Binaries, Account]:
        binaries = self._binaries()
        if self.cluster.exists():
            account = account_of_cluster(self.cluster, binaries.directory)
        else:
            account = account_for_new_cluster(binaries.directory, self.cluster.parent.parent)
            if account.user is not None:
                let_others_pass(self.data_dir)
            self.credentials.make()
            make_cluster(self.cluster, binaries, account, self._passwords(), lock)
        # Those that a cluster of an older version lacks.
        self.credentials.make(OWNER, ADMINISTRATOR)
        if not self.port_file.exists():
            write_once(self.port_file, str(launch.free_port()))
        return binaries, account

    def _binaries(self) -> Binaries:
        version_file = self.cluster / "PG_VERSION"
        if not self.cluster.exists():
            return find_binaries()
        version = self._read(version_file)
        if not (version.isascii() and version.isdigit()):
            raise EmbeddedError(f"{version_file} does not name a version of PostgreSQL: {self.cluster} is damaged.")
        return find_binaries(int(version))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        if unsafe := UNSAFE_IN_PATHS & set(str(self.data_dir)):
            raise EmbeddedError(f"The data directory's path must not contain {min(unsafe)!r}: set APP_DATA_DIR.")
        with os_errors_explained(self.data_dir):
            prepare_directory(self.data_dir)
            with locked(self._lock_file) as lock:
                yield lock

    def _read(self, path: Path) -> str:
        with os_errors_explained(self.data_dir):
            try:
                return path.read_text("ascii", "replace").strip()
            except FileNotFoundError:
                raise EmbeddedError(
                    f"{path} is missing: restore it from a backup."
                    if self.cluster.exists()
                    else f"There is no embedded database in {self.data_dir} yet: make it with ./run.sh db start."
                ) from None
