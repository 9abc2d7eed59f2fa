"""What is measured: a PostgreSQL of its own, the service on it, its users, and bare aiohttp beside them."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiopypay.embedded import EmbeddedPostgres
from bench.books import query
from bench.processes import cpu_seconds
from bench.service import Client, Program, running_bare, running_service
from bench.users import BenchUser, pay, register, write_users

# On a disk, so that a sync costs what it costs; /tmp may be memory.
PLACE = "/var/tmp"  # noqa: S108 - the directory in it has a name that nobody can guess
CREDIT = "USD:1000000"


@dataclass(frozen=True, slots=True)
class Site:
    """The running programs. `users_file` names the users to wrk; `bare` is there where it is measured."""

    postgres: EmbeddedPostgres
    service: Program
    users: Sequence[BenchUser]
    users_file: Path
    bare: Program | None = None

    def database_cpu(self) -> float:
        """The CPU seconds that PostgreSQL has used since its last start; 0 while it does not run."""
        return cpu_seconds(self.postgres.pid)

    def analyse(self) -> None:
        """Does at once what autovacuum would do within a minute: plans are made for tables as they are, not empty."""
        query(self.postgres.administrator_dsn, "VACUUM ANALYZE")

    def checkpoint(self) -> None:
        """Writes out what is dirty, so that nobody pays for what was measured before."""
        query(self.postgres.administrator_dsn, "CHECKPOINT")


@contextlib.contextmanager
def running_postgres() -> Iterator[tuple[Path, EmbeddedPostgres]]:
    """An embedded PostgreSQL, fsync and all, in a directory that is removed in the end."""
    directory = Path(tempfile.mkdtemp(prefix="aiopypay-bench-", dir=PLACE))
    postgres = EmbeddedPostgres(directory / "var")
    try:
        # The service finds it running and leaves it to us to stop.
        postgres.start(for_operator=True)
        yield directory, postgres
    finally:
        with contextlib.suppress(Exception):
            postgres.stop("immediate")
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def running_site(number_of_users: int) -> Iterator[Site]:
    """Starts everything; the users registered over HTTP, their passwords verified."""
    with contextlib.ExitStack() as stack:
        directory, postgres = stack.enter_context(running_postgres())
        service = stack.enter_context(running_service(postgres.data_dir, CREDIT))
        client = Client(service.port)
        users = [register(client, number) for number in range(number_of_users)]
        bare = stack.enter_context(running_bare(directory, _sample_answers(client, users)))
        yield Site(postgres, service, users, write_users(directory / "users", users), bare)


def _sample_answers(client: Client, users: Sequence[BenchUser]) -> dict[str, Any]:
    payer, payee = users[:2]
    receipt = pay(client, payer, payee)
    account = client.ask("GET", f"/accounts/{payer.account_id}", authorization=payer.authorization)
    return {"receipt": receipt, "account": account}
