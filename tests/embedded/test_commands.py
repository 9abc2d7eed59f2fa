"""The commands around the embedded PostgreSQL, as processes: their answers, exit statuses and clean stops."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from aiopypay.embedded import EmbeddedPostgres
from aiopypay.embedded.processes import cluster_processes, wait_until

CHECKOUT = Path(__file__).parents[2]
WAIT_SECONDS = 30

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def command(data_dir: Path, clean_environment: dict[str, str], unused_tcp_port: int) -> Start:
    """Starts `aiopypay` with these arguments and settings, away from any .env file."""

    def start(*arguments: str, **settings: str) -> subprocess.Popen[str]:
        environment = clean_environment | {"PYTHONPATH": str(CHECKOUT), "APP_DATA_DIR": str(data_dir)}
        return subprocess.Popen(
            [sys.executable, "-m", "aiopypay", *arguments],
            cwd=data_dir.parent,
            env=environment | {"APP_PORT": str(unused_tcp_port)} | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=WAIT_SECONDS)
    return process.returncode, output, errors


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_start_status_psql_and_stop(command: Start, data_dir: Path) -> None:
    assert finished(command("db", "status"))[0] == 3
    assert finished(command("db", "start"))[0] == 0
    embedded = EmbeddedPostgres(data_dir)
    status, output, _ = finished(command("db", "status"))
    assert status == 0
    assert str(embedded.pid) in output
    assert finished(command("db", "psql", "-Atc", "SELECT 6 * 7, current_user")) == (0, "42|aiopypay_owner\n", "")
    for role, user in (("service", "aiopypay"), ("administrator", "postgres")):
        assert finished(command("db", "psql", "--role", role, "-Atc", "SELECT current_user")) == (0, f"{user}\n", "")
    assert finished(command("db", "stop"))[0] == 0
    assert not embedded.is_running()
    status, output, _ = finished(command("db", "status"))
    assert status == 3
    assert "stopped with ./run.sh db stop" in output


def test_migrate_starts_and_stops_what_it_needs(command: Start, data_dir: Path) -> None:
    status, output, errors = finished(command("migrate"))
    assert (status, errors) == (0, "")
    assert output.startswith("Applied 0001_")
    assert finished(command("migrate")) == (0, "Nothing to apply.\n", "")
    assert cluster_processes(data_dir / "postgres") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_stops_all_of_it_and_exits_with_0(
    command: Start, data_dir: Path, unused_tcp_port: int, number: signal.Signals
) -> None:
    process = command("serve")
    assert wait_until(lambda: answers(unused_tcp_port), WAIT_SECONDS)
    process.send_signal(number)
    status, _, errors = finished(process)
    assert status == 0
    assert "Traceback" not in errors
    assert cluster_processes(data_dir / "postgres") == []


@pytest.mark.parametrize("awaited", ["postgres.new/global", "postgres/postmaster.pid"])
def test_serve_stops_cleanly_while_the_database_is_made_or_started(
    command: Start, data_dir: Path, awaited: str
) -> None:
    process = command("serve")
    assert wait_until((data_dir / awaited).exists, WAIT_SECONDS)
    process.send_signal(signal.SIGTERM)
    status, _, errors = finished(process)
    assert status == 0
    assert "Traceback" not in errors
    assert cluster_processes(data_dir / "postgres") == []
    assert not (data_dir / "postgres.new").exists()


def test_serve_stops_cleanly_while_it_waits_for_the_database(command: Start, unused_tcp_port: int) -> None:
    process = command("serve", DATABASE_URL=f"postgresql://a:b@127.0.0.1:{unused_tcp_port}/c")
    assert process.stderr is not None
    assert "Waiting for the database" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert finished(process)[0] == 0


def test_a_second_interrupt_does_not_cut_the_stop_short(command: Start, data_dir: Path, unused_tcp_port: int) -> None:
    process = command("serve")
    assert wait_until(lambda: answers(unused_tcp_port), WAIT_SECONDS)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
    status, _, errors = finished(process)
    assert (status, "Traceback" in errors) == (0, False)
    assert cluster_processes(data_dir / "postgres") == []


def test_serve_leaves_alone_what_it_did_not_start(
    command: Start, embedded: EmbeddedPostgres, unused_tcp_port: int
) -> None:
    assert finished(command("db", "start"))[0] == 0
    process = command("serve")
    assert wait_until(lambda: answers(unused_tcp_port), WAIT_SECONDS)
    process.send_signal(signal.SIGTERM)
    assert finished(process)[0] == 0
    assert embedded.is_running()


def test_serve_stops_what_a_killed_one_left_running(command: Start, data_dir: Path, unused_tcp_port: int) -> None:
    killed = command("serve")
    assert wait_until(lambda: answers(unused_tcp_port), WAIT_SECONDS)
    killed.kill()
    finished(killed)
    assert EmbeddedPostgres(data_dir).is_running()
    process = command("serve")
    assert wait_until(lambda: answers(unused_tcp_port), WAIT_SECONDS)
    process.send_signal(signal.SIGINT)
    assert finished(process)[0] == 0
    assert cluster_processes(data_dir / "postgres") == []


def test_serve_never_restarts_a_database_that_was_stopped_under_it(
    command: Start, data_dir: Path, unused_tcp_port: int
) -> None:
    process = command("serve")
    assert wait_until(lambda: answers(unused_tcp_port), WAIT_SECONDS)
    assert finished(command("db", "stop"))[0] == 0
    assert answers(unused_tcp_port)
    assert not EmbeddedPostgres(data_dir).is_running()
    assert finished(command("db", "start"))[0] == 0
    process.send_signal(signal.SIGTERM)
    assert finished(process)[0] == 0
    # The operator started this one.
    with closing(psycopg2.connect(EmbeddedPostgres(data_dir).dsn)):
        pass


def test_serve_says_that_the_operator_keeps_the_database_stopped(command: Start, data_dir: Path) -> None:
    assert finished(command("db", "stop"))[0] == 0
    process = command("serve")
    assert process.stderr is not None
    assert "./run.sh db start" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert finished(process)[0] == 0
    assert cluster_processes(data_dir / "postgres") == []


def test_a_port_in_use_is_one_line_and_the_database_is_stopped_again(
    command: Start, data_dir: Path, unused_tcp_port: int
) -> None:
    with socket.create_server(("127.0.0.1", unused_tcp_port)):
        status, _, errors = finished(command("serve"))
    assert status == 1
    last_line = errors.splitlines()[-1]
    assert last_line.startswith("aiopypay: ")
    assert str(unused_tcp_port) in last_line
    assert "Traceback" not in errors
    assert cluster_processes(data_dir / "postgres") == []


@pytest.mark.parametrize("arguments", [["serve"], ["migrate"], ["db", "start"]])
def test_a_bad_setting_is_one_line(command: Start, arguments: list[str]) -> None:
    status, output, errors = finished(command(*arguments, APP_PORT="http"))
    assert (status, output) == (1, "")
    assert errors.startswith("aiopypay: APP_PORT must be")
    assert len(errors.splitlines()) == 1


def test_psql_without_a_server_says_how_to_start_it(command: Start) -> None:
    status, _, errors = finished(command("db", "psql"))
    assert status == 1
    assert "./run.sh db start" in errors
