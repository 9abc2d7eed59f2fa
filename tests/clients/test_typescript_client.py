"""A client in TypeScript: types from openapi-typescript, requests by openapi-fetch, checked by tsc, run by node."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from .conftest import FOLDER, Outage

SECONDS_MAX = 60


def run(*command: str, cwd: Path) -> None:
    """Runs a program of the packages to its end."""
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def program(openapi_file: Path, node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenario as JavaScript, its types checked against the document."""
    folder = tmp_path_factory.mktemp("typescript")
    (folder / "node_modules").symlink_to(node_modules)
    for name in ("package.json", "scenario.ts", "tsconfig.json"):
        (folder / name).write_bytes((FOLDER / name).read_bytes())
    binaries = node_modules / ".bin"
    run(str(binaries / "openapi-typescript"), str(openapi_file), "-o", "schema.d.ts", cwd=folder)
    run(str(binaries / "tsc"), "-p", ".", cwd=folder)
    return folder / "scenario.js"


async def test_it_does_all_that_a_client_does(outage: Outage, program: Path) -> None:
    """The scenario asks for an outage, and for its end, by a line each."""
    node = await asyncio.create_subprocess_exec(
        "node", str(program), outage.service.base_url,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert node.stdin is not None
    assert node.stdout is not None
    assert node.stderr is not None
    wishes = {b"lose the database\n": outage.begin, b"bring it back\n": outage.end}
    async with asyncio.timeout(SECONDS_MAX):
        while line := await node.stdout.readline():
            await wishes.pop(line)()
            node.stdin.write(b"done\n")
        errors = (await node.stderr.read()).decode()
        assert await node.wait() == 0, errors
    assert wishes == {}
