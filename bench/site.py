"""What is measured: a PostgreSQL of its own, the service on it, its users, and bare aiohttp beside them."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import make_dsn

from aiopypay.embedded import EmbeddedPostgres
from bench.errors import BenchError
from bench.processes import cpu_seconds
from bench.service import Client, Program, running_bare, running_service
from bench.users import BenchUser, pay, register, write_users

# On a disk, so that a sync costs what it costs; /tmp may be memory.
PLACE = "/var/tmp"  # noqa: S108 - the directory in it has a name that nobody can guess
CREDIT = "USD:1000000"

SUM_OF_BALANCES = "SELECT currency_id, sum(amount) FROM accounts GROUP BY currency_id HAVING sum(amount) <> 0"
BALANCES_ASTRAY = """
SELECT id, accounts.amount, coalesce(booked.amount, 0)
FROM accounts
LEFT JOIN (
    SELECT account_id, sum(amount) AS amount
    FROM (
        SELECT to_account_id AS account_id, amount FROM transfers
        UNION ALL
        SELECT from_account_id, -amount FROM transfers
    ) AS changes
    GROUP BY account_id
) AS booked ON booked.account_id = accounts.id
WHERE accounts.amount <> coalesce(booked.amount, 0)
LIMIT 10
"""
REFUSED = "SELECT id, reason FROM orders WHERE status = 'refused' LIMIT 10"
CHECKS = {
    "balances do not sum to zero": SUM_OF_BALANCES,
    "balances are not the sums of their transfers": BALANCES_ASTRAY,
    "orders were refused at settling": REFUSED,
}


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

    def checkpoint(self) -> None:
        """Writes out what is dirty, so that nobody pays for what was measured before."""
        query(self.postgres, "CHECKPOINT", as_administrator=True)

    def check(self) -> None:
        """Raises `BenchError` unless the books are right."""
        for complaint, sql in CHECKS.items():
            if astray := query(self.postgres, sql):
                raise BenchError(f"{complaint}: {astray}")


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


def query(
    postgres: EmbeddedPostgres, sql: str, parameters: dict[str, object] | None = None, *, as_administrator: bool = False
) -> list[tuple[Any, ...]]:
    """Runs a statement in a transaction of its own and returns its rows."""
    dsn = make_dsn(postgres.dsn, user="postgres") if as_administrator else postgres.dsn
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def _sample_answers(client: Client, users: Sequence[BenchUser]) -> dict[str, Any]:
    payer, payee = users[:2]
    receipt = pay(client, payer, payee)
    account = client.ask("GET", f"/accounts/{payer.account_id}", authorization=payer.authorization)
    return {"receipt": receipt, "account": account}
