"""A real PgBouncer between the service and PostgreSQL."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import connection as PgConnection  # noqa: N812 - a class with a lower-case name
from psycopg2.extensions import make_dsn, parse_dsn

from aiopypay.embedded.account import account_of_cluster
from aiopypay.embedded.roles import FILES

from .postgres import PostgresServer
from .service import free_port
from .waiting import wait_until

UP_SECONDS = 5
STOP_SECONDS = 10
# Debian puts it where only administrators look.
PATH = f"{os.environ['PATH']}:/usr/sbin"
CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
"""


class Pooler:
    """One PgBouncer on a port of its own, which it keeps from start to start. It runs as the cluster's user."""

    def __init__(self, postgres: PostgresServer) -> None:
        program = shutil.which("pgbouncer", path=PATH)
        if program is None:
            pytest.skip("PgBouncer is not installed")
        self._program = program
        self._postgres = postgres
        self._account = account_of_cluster(postgres.embedded.cluster, postgres.embedded.program("pg_ctl").parent)
        self._directory = Path(tempfile.mkdtemp(prefix="aiopypay-", dir="/tmp"))
        self._account.own(self._directory)
        self._process: subprocess.Popen[str] | None = None
        self.port = free_port()

    @property
    def dsn(self) -> str:
        """The connection string of the service's role, by way of the pooler."""
        return make_dsn(self._postgres.dsn, port=self.port)

    def start(self, **settings: str | int) -> None:
        """Starts it with these settings; returns when it accepts connections."""
        server = parse_dsn(self._postgres.dsn)
        file, users = self._directory / "pgbouncer.ini", self._directory / "users"
        # In these clusters all roles have one password.
        users.write_text("".join(f'"{role}" "{server["password"]}"\n' for role in FILES))
        self._account.own(users)
        text = CONFIGURATION.format(server_port=self._postgres.port, users=users, port=self.port)
        file.write_text(text + "".join(f"{name} = {value}\n" for name, value in settings.items()))
        self._account.own(file)
        with (self._directory / "pgbouncer.log").open("a") as log:
            self._process = self._account.popen([self._program, file], stdout=log)
        wait_until(self._accepts_connections, UP_SECONDS, "PgBouncer accepts connections")

    def stop(self) -> None:
        """Ends it, with all its connections; returns when it is gone."""
        if self._process is not None:
            # SIGINT would wait for the clients.
            self._process.terminate()
            self._process.wait(STOP_SECONDS)
            self._process = None

    def connected(self) -> PgConnection:
        """A blocking connection of another of its clients."""
        return psycopg2.connect(self.dsn, connect_timeout=5)

    def remove(self) -> None:
        """Ends it and removes its directory."""
        self.stop()
        shutil.rmtree(self._directory)

    def _accepts_connections(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._directory / "pgbouncer.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False
