"""The embedded PostgreSQL: a real server, killed, frozen, started twice and in each other's way."""

import os
import signal
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from aiopypay.embedded import EmbeddedError, EmbeddedPostgres, StoppedByOperator
from aiopypay.embedded.processes import cluster_processes, exists, send, wait_until
from aiopypay.embedded.roles import FILES

START = "import sys; from pathlib import Path; from aiopypay.embedded import EmbeddedPostgres; \
EmbeddedPostgres(Path(sys.argv[1])).start()"


def query(dsn: str, sql: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []


def kill(embedded: EmbeddedPostgres) -> int:
    pid = embedded.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def one_line(error: pytest.ExceptionInfo[EmbeddedError]) -> str:
    message = str(error.value)
    assert message.isprintable()
    return message


def test_a_first_start_makes_it_and_a_second_one_finds_it_running(embedded: EmbeddedPostgres) -> None:
    assert not embedded.is_running()
    assert embedded.start() is True
    pid = embedded.pid
    assert embedded.start() is False
    assert embedded.pid == pid
    assert query(embedded.dsn, "SELECT current_user, current_database()") == [("aiopypay", "aiopypay")]
    assert embedded.stop() is True
    assert embedded.stop() is False
    assert embedded.pid is None


def test_another_start_sees_the_same_data_under_the_same_address(embedded: EmbeddedPostgres) -> None:
    embedded.start()
    dsn = embedded.owner_dsn
    query(dsn, "CREATE TABLE kept AS SELECT 42 AS value")
    embedded.stop()
    again = EmbeddedPostgres(embedded.data_dir)
    assert again.start() is True
    assert again.owner_dsn == dsn
    assert query(dsn, "SELECT value FROM kept") == [(42,)]


def test_it_is_made_to_keep_money_and_texts(embedded: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the locale of whoever starts it."""
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.setenv(name, "ru_RU.KOI8-R")
    embedded.start()
    expected = {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "data_checksums": "on",
        "server_encoding": "UTF8",
        "listen_addresses": "127.0.0.1",
        "TimeZone": "UTC",
    }
    assert {name: query(embedded.dsn, f"SHOW {name}")[0][0] for name in expected} == expected
    assert query(embedded.dsn, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == [(False,)]


def test_nobody_gets_in_without_the_password(embedded: EmbeddedPostgres) -> None:
    embedded.start()
    for user in FILES:
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            psycopg2.connect(make_dsn(embedded.dsn, user=user, password="guessed"))


def test_files_are_private(embedded: EmbeddedPostgres, data_dir: Path) -> None:
    embedded.start()
    # Root's server runs as another user, who must get through to its directory.
    passes = data_dir.stat().st_uid != embedded.cluster.stat().st_uid
    assert permissions(data_dir) == (0o711 if passes else 0o700)
    assert permissions(embedded.cluster) == 0o700
    files = {path.name: permissions(path) for path in data_dir.iterdir() if path.is_file()}
    assert set(files) == {"postgres.lock", "postgres.port", "postgres.starter", *FILES.values()}
    assert set(files.values()) == {0o600}


def test_after_kill_9_the_next_start_recovers(embedded: EmbeddedPostgres) -> None:
    embedded.start()
    query(embedded.owner_dsn, "CREATE TABLE kept AS SELECT 42 AS value")
    with closing(psycopg2.connect(embedded.dsn)) as connection, connection.cursor() as cursor:
        # A backend that is busy outlives the postmaster for a moment.
        cursor.execute("SELECT 1")
        killed = kill(embedded)
        assert embedded.start() is True
    assert embedded.pid != killed
    assert query(embedded.owner_dsn, "SELECT value FROM kept") == [(42,)]


def test_a_process_id_that_is_another_programs_by_now_is_no_server(embedded: EmbeddedPostgres) -> None:
    embedded.start()
    pid_file = embedded.cluster / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    kill(embedded)
    assert wait_until(lambda: not cluster_processes(embedded.cluster), 10)
    # As the server's own user, because PostgreSQL looks for that in particular.
    other = subprocess.Popen(["/bin/sleep", "60"], user=embedded.cluster.stat().st_uid)
    try:
        pid_file.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
        assert not embedded.is_running()
        assert embedded.stop() is False
        assert embedded.start() is True
        assert exists(other.pid)
    finally:
        other.kill()
        other.wait()


def test_a_half_made_cluster_is_made_anew(embedded: EmbeddedPostgres, data_dir: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", START, data_dir])
    assert wait_until((data_dir / "postgres.new" / "global").exists, 20)
    process.kill()
    process.wait()
    assert not embedded.cluster.exists()
    assert embedded.start() is True
    assert not (data_dir / "postgres.new").exists()
    assert query(embedded.dsn, "SELECT 1") == [(1,)]


def test_of_two_that_start_at_once_one_makes_it_and_both_find_it(data_dir: Path, embedded: EmbeddedPostgres) -> None:
    with ThreadPoolExecutor() as executor:
        results = list(executor.map(lambda _: EmbeddedPostgres(data_dir).start(), range(3)))
    assert sorted(results) == [False, False, True]
    assert query(embedded.dsn, "SELECT 1") == [(1,)]


def test_the_operators_mark_keeps_it_stopped_until_it_is_cleared(embedded: EmbeddedPostgres) -> None:
    embedded.start()
    embedded.set_operator_mark()
    embedded.stop()
    with pytest.raises(StoppedByOperator, match=r"run\.sh db start"):
        embedded.start()
    assert not embedded.is_running()
    # The address is known all the same: the service starts without the database.
    assert "127.0.0.1" in embedded.dsn
    embedded.clear_operator_mark()
    assert embedded.start() is True


def test_the_mark_can_be_set_before_there_is_anything(embedded: EmbeddedPostgres) -> None:
    embedded.set_operator_mark()
    assert embedded.stop() is False
    embedded.initialise()
    assert not embedded.is_running()
    assert embedded.port > 0


def test_only_the_very_server_that_was_started_is_stopped_in_the_end(embedded: EmbeddedPostgres) -> None:
    embedded.start()
    operator = EmbeddedPostgres(embedded.data_dir)
    operator.stop()
    assert embedded.stop_if_started() is False
    operator.start()
    assert embedded.stop_if_started() is False
    assert operator.is_running()
    assert operator.stop_if_started() is True


def test_a_server_that_a_killed_process_left_running_is_taken_over(embedded: EmbeddedPostgres, data_dir: Path) -> None:
    subprocess.run([sys.executable, "-c", START, data_dir], check=True)
    left = embedded.pid
    assert left is not None
    assert embedded.start() is False
    # Only one takes over.
    assert EmbeddedPostgres(data_dir).start() is False
    assert EmbeddedPostgres(data_dir).stop_if_started() is False
    assert embedded.pid == left
    assert embedded.stop_if_started() is True
    assert not embedded.is_running()


@pytest.mark.parametrize("started_before", [True, False])
def test_what_runs_for_the_operator_is_not_taken_over(
    embedded: EmbeddedPostgres, data_dir: Path, started_before: bool
) -> None:
    if started_before:
        subprocess.run([sys.executable, "-c", START, data_dir], check=True)
    EmbeddedPostgres(data_dir).start(for_operator=True)
    assert embedded.start() is False
    assert embedded.stop_if_started() is False
    assert embedded.is_running()


def test_a_frozen_server_can_be_stopped(embedded: EmbeddedPostgres) -> None:
    embedded.start()
    # The processes that serve sessions come and go.
    for pid in cluster_processes(embedded.cluster):
        send(pid, signal.SIGSTOP)
    assert embedded.is_running()
    assert embedded.stop() is True
    assert cluster_processes(embedded.cluster) == []


def test_a_port_in_use_is_one_line_that_says_where_to_change_it(embedded: EmbeddedPostgres) -> None:
    embedded.initialise()
    with socket.create_server(("127.0.0.1", embedded.port)):
        with pytest.raises(EmbeddedError) as error:
            embedded.start()
        message = one_line(error)
    assert str(embedded.port) in message
    assert str(embedded.port_file) in message
    assert embedded.start() is True


def test_data_of_a_version_that_is_not_here_stays_untouched(embedded: EmbeddedPostgres) -> None:
    embedded.initialise()
    (embedded.cluster / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedError) as error:
        embedded.start()
    assert "PostgreSQL 9" in one_line(error)
    assert "postgresql-9" in one_line(error)
    assert embedded.cluster.exists()


def test_a_server_that_fails_to_start_says_why(embedded: EmbeddedPostgres) -> None:
    embedded.initialise()
    with (embedded.cluster / "postgresql.conf").open("a") as configuration:
        configuration.write("shared_buffers = 'lots'\n")
    with pytest.raises(EmbeddedError) as error:
        embedded.start()
    assert "configuration file" in one_line(error)
    assert "server.log" in one_line(error)
    assert not embedded.is_running()


def test_a_data_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedError) as error:
        EmbeddedPostgres(tmp_path / "file" / "var").start()
    assert "set APP_DATA_DIR" in one_line(error)


def test_a_directory_that_others_can_write_is_refused(data_dir: Path) -> None:
    (data_dir / "something").touch()
    data_dir.chmod(0o777)
    with pytest.raises(EmbeddedError) as error:
        EmbeddedPostgres(data_dir).start()
    assert "writable by other users" in one_line(error)
    assert permissions(data_dir) == 0o777


def test_a_path_that_a_shell_would_read_otherwise_is_refused(data_dir: Path) -> None:
    with pytest.raises(EmbeddedError) as error:
        EmbeddedPostgres(data_dir / "a$(b)").start()
    assert "'$'" in one_line(error)


def test_spaces_and_other_letters_in_the_path_are_fine(data_dir: Path) -> None:
    embedded = EmbeddedPostgres(data_dir / "données de l’API")
    # PostgreSQL's user must get through here as well.
    data_dir.chmod(0o711)
    assert embedded.start() is True
    assert embedded.stop() is True
