"""The operating-system account that the server runs under. PostgreSQL refuses to run as root, so root steps down."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from aiopypay.embedded.errors import EmbeddedError

# In preference order. `nobody` exists everywhere, but others may run as it too.
ACCOUNT_NAMES = ("postgres", "nobody")
# In a user namespace of its own, root appears to the server as this user, and its files stay root's on disk.
NAMESPACE_ID = 65534
PROBE_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Account:
    """How the server's programs are run. `user` None means: as whoever runs this process."""

    name: str
    user: int | None = None
    group: int | None = None
    prefix: tuple[str, ...] = ()

    def popen(
        self,
        command: Sequence[str | Path],
        *,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | IO[str] | None = subprocess.DEVNULL,
        stderr: int | IO[str] | None = subprocess.STDOUT,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[str]:
        """Starts a program under this account, in a session of its own: the terminal's Ctrl-C does not reach it."""
        return subprocess.Popen(
            [*self.prefix, *command],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            user=self.user,
            group=self.group,
            extra_groups=None if self.user is None else [],
            cwd="/",
            env=_clean_environment(),
            start_new_session=True,
            umask=0o077,
            text=True,
        )

    def own(self, path: Path) -> None:
        """Makes this account the owner of a file or directory that this process made."""
        if self.user is not None and self.group is not None:
            os.chown(path, self.user, self.group, follow_symlinks=False)

    def can_use(self, binaries: Path, directory: Path) -> bool:
        """Whether this account can run the programs and enter the directory, all parents of both included."""
        script = 'cd -- "$1" && "$2" --version'
        try:
            process = self.popen(["/bin/sh", "-c", script, "sh", directory, binaries / "initdb"])
        except OSError:
            return False
        try:
            return process.wait(PROBE_SECONDS) == 0
        finally:
            process.kill()
            process.wait()


def account_for_new_cluster(binaries: Path, parent: Path) -> Account:
    """The account to make a cluster under. `parent` is the directory that holds the data directory.

    Raises `EmbeddedError` where root finds none that can work there.
    """
    if os.geteuid() != 0:
        return Account(_name_of(os.geteuid()))
    for account in [*_unprivileged_accounts(), *_namespace_account()]:
        if account.can_use(binaries, parent):
            return account
    closed = _first_closed(binaries) or _first_closed(parent) or parent
    raise EmbeddedError(
        f"PostgreSQL does not run as root, and other users cannot enter {closed}: set APP_DATA_DIR to a directory "
        f"outside of it, or chmod o+x {closed}, or run as a user other than root."
        if closed != binaries
        else f"PostgreSQL does not run as root, and other users cannot run {binaries}/initdb: run as another user."
    )


def account_of_cluster(cluster: Path, binaries: Path) -> Account:
    """The account that owns the cluster. Raises `EmbeddedError` if this process cannot run programs under it."""
    status = cluster.stat()
    if os.geteuid() != 0:
        if status.st_uid != os.geteuid():
            owner = _name_of(status.st_uid)
            raise EmbeddedError(f"{cluster} belongs to user {owner}: run as {owner}, or set APP_DATA_DIR to another.")
        return Account(_name_of(os.geteuid()))
    if status.st_uid == 0:
        candidates = list(_namespace_account())
    else:
        candidates = [Account(_name_of(status.st_uid), status.st_uid, status.st_gid)]
    for account in candidates:
        if account.can_use(binaries, cluster):
            return account
    closed = _first_closed(binaries) or _first_closed(cluster.parent) or cluster
    raise EmbeddedError(
        f"{cluster} belongs to user {_name_of(status.st_uid)}, as whom PostgreSQL cannot be run here (see {closed}): "
        "open that directory with chmod o+x, or set APP_DATA_DIR to another."
    )


def _unprivileged_accounts() -> Iterator[Account]:
    for name in ACCOUNT_NAMES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        yield Account(name, entry.pw_uid, entry.pw_gid)


def _namespace_account() -> Iterator[Account]:
    unshare = shutil.which("unshare")
    if unshare is not None:
        options = ("--user", f"--map-user={NAMESPACE_ID}", f"--map-group={NAMESPACE_ID}")
        yield Account("root", prefix=(unshare, *options, "--"))


def _first_closed(path: Path) -> Path | None:
    """The outermost directory on the way that is closed to others."""
    for directory in [*reversed(path.parents), path]:
        if directory.exists() and not directory.stat().st_mode & 0o001:
            return directory
    return None


def _name_of(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _clean_environment() -> Mapping[str, str]:
    """PGDATA, PGPORT and their like must not redirect the server's programs; messages must be in English."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}
