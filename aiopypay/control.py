"""The operator's door into a running service: a Unix socket in the data directory, for its owner alone."""

import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from aiopypay.errors import CommitInDoubt, Problem, StartError
from aiopypay.representations import json_response
from aiopypay.stand_in.decisions import DecisionNotAwaited
from aiopypay.stand_in.lifecycle import DIRECTORY, StandIn
from aiopypay.stand_in.listing import JournalLine
from aiopypay.stand_in.moments_on_disk import Decision
from aiopypay.stand_in.records import State
from aiopypay.stand_in.rejected import NotAwaited
from aiopypay.stand_in.restoration_report import Report

SOCKET = "control"


class Decided(msgspec.Struct):
    """What was done, or why nothing was."""

    report: Report | None
    problem: str | None = None


class Wish(msgspec.Struct):
    """The operator's wish that an entry of the journal be refused, and why."""

    sequence: int
    reason: str


class Verdict(msgspec.Struct):
    """Whether it was granted, and what is to be told."""

    granted: bool
    told: str


def control_app(stand_in: StandIn) -> web.Application:
    """Returns what answers on the socket."""

    async def get_journal(request: web.Request) -> web.Response:
        state: State | None = request.query.get("state")  # type: ignore[assignment]
        try:
            return json_response(await stand_in.journal(state, int(request.query["after"])))
        except Problem as problem:
            raise web.HTTPServiceUnavailable(text=problem.detail) from problem

    async def get_replay(_: web.Request) -> web.Response:
        return json_response(await _decided(stand_in.preview()))

    async def post_decision(request: web.Request) -> web.Response:
        decision = msgspec.json.decode(await request.read(), type=Decision)
        return json_response(await _decided(stand_in.decide(decision)))

    async def post_refusal(request: web.Request) -> web.Response:
        wish = msgspec.json.decode(await request.read(), type=Wish)
        return json_response(await _granted(stand_in, wish))

    app = web.Application()
    app.router.add_get("/journal", get_journal)
    app.router.add_get("/replay", get_replay)
    app.router.add_post("/decision", post_decision)
    app.router.add_post("/refusal", post_refusal)
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


async def _decided(work: Awaitable[Report]) -> Decided:
    try:
        return Decided(await work)
    except DecisionNotAwaited as error:
        return Decided(None, str(error))
    except Problem as problem:
        return Decided(None, f"{problem.detail} GET /health tells whether what you decided goes on all the same.")


async def ask_replay(data_dir: Path) -> Decided | None:
    """Returns what a replay by the running service would do; None where none runs."""
    answer = await _ask(data_dir, "GET", "/replay")
    return None if answer is None else msgspec.json.decode(answer, type=Decided)


async def ask_decision(data_dir: Path, decision: Decision) -> Decided | None:
    """Has the running service carry out a decision; None where none runs."""
    answer = await _ask(data_dir, "POST", "/decision", data=msgspec.json.encode(decision))
    return None if answer is None else msgspec.json.decode(answer, type=Decided)


async def ask_journal(data_dir: Path, state: State | None, after: int) -> list[JournalLine] | None:
    """Returns a page of the running service's journal, None where none runs.

    Raises StartError where it cannot be read.
    """
    query = {"after": str(after)} | ({"state": state} if state else {})
    answer = await _ask(data_dir, "GET", "/journal", params=query)
    return None if answer is None else msgspec.json.decode(answer, type=list[JournalLine])


async def ask_refusal(data_dir: Path, wish: Wish) -> Verdict | None:
    """Has the running service refuse an entry of its journal; None where none runs."""
    answer = await _ask(data_dir, "POST", "/refusal", data=msgspec.json.encode(wish))
    return None if answer is None else msgspec.json.decode(answer, type=Verdict)


async def _ask(data_dir: Path, method: str, path: str, **content: Any) -> bytes | None:
    try:
        directory = os.open(data_dir / DIRECTORY, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        connector = aiohttp.UnixConnector(_short(directory))
        # A replay takes as long as it takes.
        patient = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=patient) as session:
            async with session.request(method, f"http://control{path}", **content) as response:
                if response.status == web.HTTPServiceUnavailable.status_code:
                    raise StartError(await response.text())
                response.raise_for_status()
                return await response.read()
    except aiohttp.ClientConnectionError:
        return None
    finally:
        os.close(directory)


async def _granted(stand_in: StandIn, wish: Wish) -> Verdict:
    try:
        refusal = await stand_in.refuse(wish.sequence, wish.reason)
    except NotAwaited as error:
        return Verdict(False, f"Nothing is refused. {error}")
    except CommitInDoubt:
        return Verdict(False, "The database did not answer to COMMIT: settling finds out what is refused.")
    except Problem as problem:
        return Verdict(False, f"Nothing is refused: {problem.detail}")
    told = [f"Entry {sequence} is refused." for sequence in refusal.refused]
    told += [f"Entry {sequence} was booked before: it is posted, and not refused." for sequence in refusal.posted]
    return Verdict(bool(refusal.refused), "\n".join(told))


def _short(directory: int) -> str:
    """A socket's path has at most 107 bytes; that of a data directory may be longer."""
    return f"/proc/self/fd/{directory}/{SOCKET}"
