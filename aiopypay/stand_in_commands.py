"""The commands about stand-in: `aiopypay journal`, `aiopypay lease`."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import click

from aiopypay.control import ask_journal
from aiopypay.database import Database
from aiopypay.embedded import EmbeddedPostgres
from aiopypay.errors import Problem, StartError
from aiopypay.representations import encode_json
from aiopypay.settings import Settings, read_environment
from aiopypay.stand_in.directory import distrust
from aiopypay.stand_in.identity import forget_transfers
from aiopypay.stand_in.lifecycle import DIRECTORY
from aiopypay.stand_in.listing import JournalLine, journal_page
from aiopypay.stand_in.records import State
from aiopypay.stand_in.store import Store
from aiopypay.store import installation

REPLAYED_AT_ONCE = 500
LINE = (
    "{line.sequence:>8}  {line.state:<8} {line.order_id}  user {line.user_id}  "
    "{line.from_account_id} -> {line.to_account_id}  {line.amount}  {told}"
)


@click.group(invoke_without_command=True)
@click.option("--state", type=click.Choice(["pending", "posted", "refused"]), help="Only entries in this state.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_context
def journal(context: click.Context, state: State | None, as_json: bool) -> None:
    """List the payments that were accepted without the database, while the service runs or not."""
    if context.invoked_subcommand is not None:
        return
    lines = 0
    for line in _lines(_settings().data_dir, state):
        lines += 1
        click.echo(encode_json(line).decode() if as_json else LINE.format(line=line, told=_told(line)))
    if not as_json:
        click.echo(f"{lines} entries.")


@journal.command()
def replay() -> None:
    """Book kept entries again, after an older backup of the database was restored.

    Only while the service is stopped. At its next start it settles them under their ids: what the database still
    knows is found, what it has forgotten is booked, nothing is doubled.
    """
    directory = _settings().data_dir / DIRECTORY
    store = _open(directory)
    try:
        reopened = 0
        while posted := [entry.sequence for entry in store.entries("posted", REPLAYED_AT_ONCE)]:
            with store.transaction(durable=True):
                store.reopen_posted(posted)
            reopened += len(posted)
        with store.transaction(durable=True):
            forget_transfers(store)
        distrust(directory)
    finally:
        store.close()
    click.echo(f"{reopened} entries will be settled again at the next start.")


@click.group(invoke_without_command=True)
@click.pass_context
def lease(context: click.Context) -> None:
    """Show which node may stand in for the database."""
    if context.invoked_subcommand is None:
        asyncio.run(_show_lease())


@lease.command()
@click.argument("node_id", type=click.UUID)
def move(node_id: UUID) -> None:
    """Give the lease to another node.

    Two nodes that stand in at the same time could both spend the same money. A node that held the lease learns of the
    move within a second while it runs online; do not start it without the database if it was stopped, or cut off, when
    the lease was moved.
    """
    asyncio.run(_move_lease(node_id))


def _lines(data_dir: Path, state: State | None) -> Iterator[JournalLine]:
    after = 0
    while page := _page(data_dir, state, after):
        yield from page
        after = page[-1].sequence


def _page(data_dir: Path, state: State | None, after: int) -> list[JournalLine]:
    answered = asyncio.run(ask_journal(data_dir, state, after))
    if answered is not None:
        return answered
    store = _open(data_dir / DIRECTORY)
    try:
        if store.damage:
            click.echo(f"The store is damaged: {store.damage}", err=True)
        return journal_page(store, state, after)
    finally:
        store.close()


def _open(directory: Path) -> Store:
    if not directory.is_dir():
        raise StartError(
            f"there is no stand-in store in {directory}: APP_DATA_DIR names another directory, or none ran"
        )
    return Store.open(directory)


def _told(line: JournalLine) -> str:
    if line.settled_at is None:
        return f"accepted {line.accepted_at:%Y-%m-%d %H:%M:%S}"
    return f"settled {line.settled_at:%Y-%m-%d %H:%M:%S}" + (f": {line.reason}" if line.reason else "")


async def _show_lease() -> None:
    database = _database()
    try:
        async with database.transaction() as connection:
            held = await installation.lease(connection)
            nodes = await installation.nodes(connection)
    except Problem as problem:
        raise StartError(problem.detail) from problem
    finally:
        database.close()
    for node_id, registered_at, last_seen_at in nodes:
        mark = "stands in" if node_id == held.node_id else ""
        click.echo(
            f"{node_id}  registered {registered_at:%Y-%m-%d %H:%M}, last seen {last_seen_at:%Y-%m-%d %H:%M:%S}  {mark}"
        )
    if held.node_id is None:
        click.echo("The lease is free: the next node that is online takes it.")


async def _move_lease(node_id: UUID) -> None:
    database = _database()
    try:
        async with database.transaction() as connection:
            moved = await installation.move(connection, node_id)
    except Problem as problem:
        raise StartError(problem.detail) from problem
    finally:
        database.close()
    if not moved:
        click.echo(f"There is no node {node_id}: `lease` lists them.", err=True)
        sys.exit(1)
    click.echo(f"Node {node_id} stands in from now on.")


def _settings() -> Settings:
    return Settings.from_environment(read_environment())


def _database() -> Database:
    settings = _settings()
    return Database(settings.database_url or EmbeddedPostgres(settings.data_dir).dsn, connections=1)
