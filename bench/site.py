"""What is measured: a PostgreSQL of its own, the service on it, a hundred users, and bare aiohttp beside them."""

import base64
import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import make_dsn

from aiopypay.embedded import EmbeddedPostgres
from bench.errors import BenchError
from bench.processes import cpu_seconds
from bench.service import Client, free_port, running

# On a disk, so that a sync costs what it costs; /tmp may be memory.
PLACE = "/var/tmp"  # noqa: S108 - the directory in it has a name that nobody can guess
CREDIT = "USD:1000000"
REMEMBER_SECONDS = 60


@dataclass(frozen=True, slots=True)
class BenchUser:
    """A registered user and the dollar account that they pay from."""

    id: int
    account_id: int
    authorization: str


@dataclass(frozen=True, slots=True)
class Site:
    """The running programs. `users_file` names the users to wrk."""

    directory: Path
    postgres: EmbeddedPostgres
    service_port: int
    service_pid: int
    bare_port: int
    bare_pid: int
    users: list[BenchUser]
    users_file: Path

    def service_cpu(self) -> float:
        """The CPU seconds that the service has used."""
        return cpu_seconds(self.service_pid)

    def bare_cpu(self) -> float:
        """The CPU seconds that bare aiohttp has used."""
        return cpu_seconds(self.bare_pid)

    def database_cpu(self) -> float:
        """The CPU seconds that PostgreSQL has used since its last start."""
        return cpu_seconds(self.postgres.pid)

    def payment_variables(self) -> dict[str, int]:
        """What payment.sql needs to draw among the users. They were registered one by one: their ids are in steps."""
        first, second = self.users[:2]
        step = second.account_id - first.account_id
        expected = [(first.id + n, first.account_id + step * n) for n in range(len(self.users))]
        if expected != [(user.id, user.account_id) for user in self.users]:
            raise BenchError("the ids of the users and their accounts are not in steps")
        return {
            "users": len(self.users),
            "first_user": first.id,
            "first_account": first.account_id,
            "accounts_of_a_user": step,
        }

    def query(self, sql: str, *, as_administrator: bool = False) -> list[tuple[Any, ...]]:
        """Runs a statement in a transaction of its own and returns its rows."""
        dsn = make_dsn(self.postgres.dsn, user="postgres") if as_administrator else self.postgres.dsn
        connection = psycopg2.connect(dsn)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()


@contextlib.contextmanager
def running_site(number_of_users: int) -> Iterator[Site]:
    """Starts everything in a directory of its own and removes it in the end."""
    directory = Path(tempfile.mkdtemp(prefix="aiopypay-bench-", dir=PLACE))
    postgres = EmbeddedPostgres(directory / "var")
    try:
        # Running already, it is nobody's to stop but ours.
        postgres.start(for_operator=True)
        with _service(directory) as (port, pid):
            users = [_register(Client(port), number) for number in range(number_of_users)]
            with _bare(directory, _sample_answers(Client(port), users)) as (bare_port, bare_pid):
                users_file = _written(directory / "users", users)
                yield Site(directory, postgres, port, pid, bare_port, bare_pid, users, users_file)
    finally:
        with contextlib.suppress(Exception):
            postgres.stop("immediate")
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _service(directory: Path) -> Iterator[tuple[int, int]]:
    port, log_file = free_port(), directory / "service.log"
    settings = {"APP_DATA_DIR": str(directory / "var"), "APP_PORT": str(port), "APP_SIGNUP_CREDIT": CREDIT}
    # What ./run.sh prod ends in.
    with running(["-m", "aiopypay", "serve"], settings, log_file) as pid:
        Client(port).wait_until_served("/health", log_file)
        Client(port).wait_for_health("mode", REMEMBER_SECONDS, "online")
        yield port, pid


@contextlib.contextmanager
def _bare(directory: Path, answers: dict[str, Any]) -> Iterator[tuple[int, int]]:
    port, log_file, answers_file = free_port(), directory / "bare.log", directory / "answers.json"
    answers_file.write_text(json.dumps(answers))
    with running(["-m", "bench.bare", str(port), str(answers_file)], {}, log_file) as pid:
        Client(port).wait_until_served("/accounts/1", log_file)
        yield port, pid


def _register(client: Client, number: int) -> BenchUser:
    """Registers a user and lets the service verify their password once: it remembers that for five minutes."""
    name, password = f"payer{number}", f"correct horse {number}"
    user = client.ask("POST", "/users", form={"username": name, "password": password})
    authorization = "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
    accounts = client.ask("GET", f"/users/{user['id']}/accounts", authorization=authorization)
    return BenchUser(user["id"], accounts[0]["id"], authorization)


def _sample_answers(client: Client, users: list[BenchUser]) -> dict[str, Any]:
    payer, payee = users[:2]
    form: dict[str, object] = {"from": payer.account_id, "to": payee.account_id, "amount": "0.01"}
    receipt = client.ask("POST", f"/users/{payer.id}/transfers", form=form, authorization=payer.authorization)
    account = client.ask("GET", f"/accounts/{payer.account_id}", authorization=payer.authorization)
    return {"receipt": receipt, "account": account}


def _written(path: Path, users: list[BenchUser]) -> Path:
    path.write_text("".join(f"{user.id}\t{user.account_id}\t{user.authorization}\n" for user in users))
    return path
