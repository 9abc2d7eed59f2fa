"""The operator's door into a running service: a Unix socket in the data directory, for its owner alone."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web

from aiopypay.errors import Problem, StartError
from aiopypay.representations import json_response
from aiopypay.stand_in.lifecycle import DIRECTORY, StandIn
from aiopypay.stand_in.listing import JournalLine
from aiopypay.stand_in.records import State

SOCKET = "control"


def control_app(stand_in: StandIn) -> web.Application:
    """Returns what answers on the socket."""

    async def get_journal(request: web.Request) -> web.Response:
        state: State | None = request.query.get("state")  # type: ignore[assignment]
        try:
            return json_response(await stand_in.journal(state, int(request.query["after"])))
        except Problem as problem:
            raise web.HTTPServiceUnavailable(text=problem.detail) from problem

    app = web.Application()
    app.router.add_get("/journal", get_journal)
    return app


@asynccontextmanager
async def control_server(data_dir: Path, stand_in: StandIn) -> AsyncIterator[None]:
    """Answers on the socket within it."""
    runner = web.AppRunner(control_app(stand_in), access_log=None, handle_signals=False)
    await runner.setup()
    path = data_dir / DIRECTORY / SOCKET
    path.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        await web.UnixSite(runner, _short(directory)).start()
        path.chmod(0o600)
        yield
    finally:
        await runner.cleanup()
        # Not here: the event loop waits for no disk, which may hang.
        stand_in.remove_file(path)
        os.close(directory)


async def ask_journal(data_dir: Path, state: State | None, after: int) -> list[JournalLine] | None:
    """Returns a page of the running service's journal, None where none runs.

    Raises StartError where it cannot be read.
    """
    try:
        directory = os.open(data_dir / DIRECTORY, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        connector = aiohttp.UnixConnector(_short(directory))
        query = {"after": str(after)} | ({"state": state} if state else {})
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.get("http://control/journal", params=query) as response:
                if response.status == web.HTTPServiceUnavailable.status_code:
                    raise StartError(await response.text())
                response.raise_for_status()
                return msgspec.json.decode(await response.read(), type=list[JournalLine])
    except aiohttp.ClientConnectionError:
        return None
    finally:
        os.close(directory)


def _short(directory: int) -> str:
    """A socket's path has at most 107 bytes; that of a data directory may be longer."""
    return f"/proc/self/fd/{directory}/{SOCKET}"
