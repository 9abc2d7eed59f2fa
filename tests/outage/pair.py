"""Two real servers: a primary, and the streaming standby that is promoted in its place."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from psycopg2.extensions import make_dsn, parse_dsn

from aiopypay.embedded.account import account_of_cluster
from aiopypay.embedded.files import let_others_pass, write_once

from .postgres import PostgresServer
from .service import free_port
from .waiting import wait_until

BACKUP_SECONDS = 30
STREAMING_SECONDS = 10
APPLICATION_NAME = "standby"


class Pair:
    """What the primary has answered, the standby has: replication is synchronous, so a failover loses nothing.

    `old` is the primary at first, `new` the standby.
    """

    def __init__(self, old: PostgresServer, new: PostgresServer) -> None:
        self.old = old
        self.new = new

    def dsn(self, *servers: PostgresServer) -> str:
        """The connection string that names these servers, in this order."""
        hosts = ",".join("127.0.0.1" for _ in servers)
        return make_dsn(self.old.dsn, host=hosts, port=",".join(str(server.port) for server in servers))

    def fail_over(self) -> None:
        """Promotes the standby, whatever the primary does."""
        self.new.promote()

    def let_old_go_on(self) -> None:
        """Thaws the primary of before, which confirms from then on without a standby."""
        self.old.thaw()
        self.old.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        self.old.execute("SELECT pg_reload_conf()")


@contextlib.contextmanager
def running_pair(origin: PostgresServer) -> Iterator[Pair]:
    """Both run, with what the origin holds; in the end both are gone."""
    with contextlib.ExitStack() as stack:
        old = _copy(origin, stack)
        new = _copy(old, stack, "-R")
        old.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{APPLICATION_NAME}'")
        old.execute("SELECT pg_reload_conf()")
        wait_until(lambda: _is_synchronous(old), STREAMING_SECONDS, "the standby streams")
        yield Pair(old, new)


def _copy(origin: PostgresServer, stack: contextlib.ExitStack, *options: str) -> PostgresServer:
    """Starts a copy of a running server; with `-R` it follows that one from then on."""
    copy = PostgresServer()
    stack.callback(copy.remove)
    copy.database = origin.database
    let_others_pass(copy.embedded.data_dir)
    for role, file in origin.embedded.credentials.files.items():
        shutil.copyfile(file, copy.embedded.credentials.files[role])
    write_once(copy.embedded.port_file, str(free_port()))
    program = origin.embedded.program("pg_basebackup")
    account = account_of_cluster(origin.embedded.cluster, program.parent)
    copy.embedded.cluster.mkdir(mode=0o700)
    account.own(copy.embedded.cluster)
    # The program of PostgreSQL before 16 does not know what it is to demand of the server.
    known = {name: value for name, value in parse_dsn(origin.administrator_dsn).items() if name != "require_auth"}
    source = make_dsn(**{**known, "application_name": APPLICATION_NAME})
    command: list[str | Path] = [
        program,
        "-d",
        source,
        "-D",
        copy.embedded.cluster,
        "-c",
        "fast",
        "-X",
        "stream",
        *options,
    ]
    assert account.popen(command).wait(BACKUP_SECONDS) == 0
    copy.start()
    return copy


def _is_synchronous(primary: PostgresServer) -> bool:
    return primary.execute("SELECT sync_state FROM pg_stat_replication") == [("sync",)]
