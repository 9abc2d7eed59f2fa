"""Fresh databases for the tests, made before they are asked for and dropped while the next test runs."""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from uuid import uuid4

from psycopg2.extensions import make_dsn

from aiopypay.embedded import EmbeddedPostgres
from aiopypay.embedded.roles import OWNER
from tests import ledger
from tests.cluster import administration_dsn

# One makes the next database while the other drops one: each waits for PostgreSQL alone.
THREADS = 2
EMPTY = "template1"


class Databases:
    """Lends databases of one server, each to one test or module only. To be closed before the server stops.

    One copy of `template` is always made ahead, so that nobody may have a session in the template from now on. What
    goes wrong in the background is raised by the next call: in the making, to who should have had that database; in
    the dropping, at the next return of a database, or by `close`.
    """

    def __init__(self, server: EmbeddedPostgres, template: str) -> None:
        self._server = server
        self._template = template
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="databases")
        self._next = self._threads.submit(self._make, template)
        self._drops: list[Future[None]] = []

    @contextlib.contextmanager
    def fresh(self) -> Iterator[str]:
        """Lends a copy of the template; its DSN is for the service's role, which owns nothing in it."""
        made, self._next = self._next, self._threads.submit(self._make, self._template)
        with self._lent(made.result()) as dsn:
            yield dsn

    @contextlib.contextmanager
    def empty(self) -> Iterator[str]:
        """Lends a database with nothing in it."""
        with self._lent(self._make(EMPTY)) as dsn:
            yield dsn

    def close(self) -> None:
        """Waits until nothing is made or dropped any more. The database made ahead goes with its server."""
        self._threads.shutdown()
        self._raise_what_failed()

    @contextlib.contextmanager
    def _lent(self, name: str) -> Iterator[str]:
        try:
            yield make_dsn(self._server.dsn, dbname=name)
        finally:
            self._drops.append(self._threads.submit(self._drop, name))
            self._raise_what_failed()

    def _raise_what_failed(self) -> None:
        """Forgets the drops that are done; raises the error of the first that failed."""
        done = [drop for drop in self._drops if drop.done()]
        self._drops = [drop for drop in self._drops if drop not in done]
        for drop in done:
            drop.result()

    def _make(self, template: str) -> str:
        name = f"test_{uuid4().hex}"
        ledger.query(administration_dsn(self._server), f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE {template}")
        return name

    def _drop(self, name: str) -> None:
        """Drops a database, ending its sessions first: DROP DATABASE itself looks for their end only every 100 ms."""
        if not self._server.is_running():
            return
        connection = ledger.connect(administration_dsn(self._server))
        try:
            with connection.cursor() as cursor:
                # A session that hangs in its authentication holds up a DROP; better an error than a run that hangs.
                cursor.execute("SET statement_timeout = '30s'")
                deadline = time.monotonic() + 5
                while time.monotonic() < deadline:
                    cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
                    if not cursor.fetchall():
                        break
                cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
        finally:
            connection.close()
