"""Makes a database cluster: initdb, its settings, the roles and the database, then one rename. All of it or nothing."""

import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from aiopypay.embedded.account import Account
from aiopypay.embedded.binaries import Binaries
from aiopypay.embedded.errors import EmbeddedError
from aiopypay.embedded.files import overwrite, sync_directory
from aiopypay.embedded.processes import send
from aiopypay.embedded.roles import ADMINISTRATOR, ROLES_AND_DATABASE

# The port is given at each start.
CONFIGURATION = """
# Settings of aiopypay's embedded PostgreSQL.
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 100
shared_buffers = '128MB'
max_wal_size = '1GB'
fsync = on
full_page_writes = on
synchronous_commit = on
password_encryption = 'scram-sha-256'
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
"""

AUTHENTICATION = """# TYPE  DATABASE     USER  ADDRESS       METHOD
host    all          all   127.0.0.1/32  scram-sha-256
host    replication  all   127.0.0.1/32  scram-sha-256
"""


def make_cluster(cluster: Path, binaries: Binaries, account: Account, passwords: Mapping[str, str], lock: int) -> None:
    """Makes the cluster under a temporary name and renames it: killed in the middle, it is made anew.

    `passwords` are the roles'.
    The children inherit `lock`, so that nobody starts over while orphans of a killed process still write.
    Raises `EmbeddedError`.
    """
    temporary = cluster.with_name(f"{cluster.name}.new")
    remove_tree(temporary)
    temporary.mkdir(mode=0o700)
    try:
        account.own(temporary)
        options = ["--encoding=UTF8", "--locale=C", "--data-checksums", "--auth=reject", f"--username={ADMINISTRATOR}"]
        _run(account, [binaries.program("initdb"), *options, "-D", str(temporary)], lock)
        configuration = temporary / "postgresql.conf"
        overwrite(configuration, configuration.read_text() + CONFIGURATION)
        overwrite(temporary / "pg_hba.conf", AUTHENTICATION)
        single: list[str | Path] = ["--single", "-c", "exit_on_error=on", "-D", temporary, "postgres"]
        _run(account, [binaries.program("postgres"), *single], lock, ROLES_AND_DATABASE.format(**passwords))
        temporary.rename(cluster)
        sync_directory(cluster.parent)
    finally:
        remove_tree(temporary)


def remove_tree(directory: Path) -> None:
    """Removes a directory that may not be there."""
    if directory.exists():
        shutil.rmtree(directory)


def _run(account: Account, command: Sequence[str | Path], lock: int, text: str = "") -> None:
    process = account.popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=[lock]
    )
    try:
        output, _ = process.communicate(text)
    except BaseException:
        _end(process)
        raise
    if process.returncode != 0:
        raise EmbeddedError(f"PostgreSQL's data could not be made: {explained(output)}")


def _end(process: subprocess.Popen[str]) -> None:
    """Ends the whole session of a program that was interrupted."""
    send(-process.pid, signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        send(-process.pid, signal.SIGKILL)
        process.wait()


def explained(output: str) -> str:
    """One line of what a program said: the cause where it is a known one, else its last complaint."""
    if "No space left on device" in output:
        return "the disk is full: free some space, or set APP_DATA_DIR to a directory on another disk."
    lines = [line.strip() for line in output.splitlines()]
    complaints = [line for line in lines if any(word in line for word in ("FATAL:", "PANIC:", "ERROR:", "error:"))]
    said = complaints[-1:] or [line for line in lines if line][-1:]
    return said[0] if said else "it said nothing."
