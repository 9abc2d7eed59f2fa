"""The commands about stand-in: `aiopypay journal`, `aiopypay lease`."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

import click

from aiopypay.control import Decided, Wish, ask_decision, ask_journal, ask_refusal, ask_replay
from aiopypay.database import Database
from aiopypay.embedded import EmbeddedPostgres
from aiopypay.errors import DatabaseUnfit, Problem, StartError
from aiopypay.representations import encode_json
from aiopypay.settings import Settings, read_environment
from aiopypay.stand_in.lifecycle import DIRECTORY
from aiopypay.stand_in.listing import JournalLine, journal_page
from aiopypay.stand_in.records import State
from aiopypay.stand_in.store import Store
from aiopypay.store import installation

UNPLACED = (
    "unplaced  {order.order_id}  user {order.user_id}  {order.from_account_id} -> {order.to_account_id}  "
    "{order.amount}  {order.reason}"
)
# A node that runs is seen each second.
GONE_SECONDS = 10
LINE = (
    "{line.sequence:>8}  {line.state:<8} {line.order_id}  user {line.user_id}  "
    "{line.from_account_id} -> {line.to_account_id}  {line.amount}  {told}"
)


@click.group(invoke_without_command=True)
@click.option(
    "--state", type=click.Choice(["pending", "posted", "refused", "unplaced"]), help="Only entries in this state."
)
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
@click.option("--dry-run", is_flag=True, help="Only tell what it would do.")
def replay(dry_run: bool) -> None:
    """Book again what an older backup of the database lacks, after one was restored.

    Only while the service runs, and waits for it. Users, accounts and payments that this node remembers are put back
    under their old ids, in their old order; what the database still knows is found, and nothing is doubled. What names
    somebody or something else in this database is listed.
    """
    data_dir = _settings().data_dir
    _tell(asyncio.run(ask_replay(data_dir) if dry_run else ask_decision(data_dir, "replay")))


@journal.command()
def trust() -> None:
    """Take the database as it is, after an older backup was restored: what it lacks is given up.

    Only while the service runs, and waits for it. What this node remembers is forgotten and read anew. Payments that
    were accepted without the database and not yet booked are still settled.
    """
    _tell(asyncio.run(ask_decision(_settings().data_dir, "trust")))


def _tell(decided: Decided | None) -> None:
    if decided is None:
        raise StartError("the service does not run: start it first; it waits for the decision")
    if decided.report is None:
        raise StartError(decided.problem or "")
    click.echo(decided.report.told())
    for stranger in decided.report.strangers:
        click.echo(f"{stranger} is somebody or something else in this database")
    for order in decided.report.unplaced:
        click.echo(UNPLACED.format(order=order))


@journal.command()
@click.argument("sequence", type=int)
@click.argument("reason", nargs=-1, required=True)
def refuse(sequence: int, reason: Sequence[str]) -> None:
    """Refuse the payment that settling waits for, as PostgreSQL does not take it.

    Only while the service runs. Those that were sent together with it, to be booked together, are refused too. Who
    ordered them sees it, with the reason. What turns out to be booked is not refused.
    """
    told = " ".join(reason)
    if not told.isprintable() or not told.strip():
        raise StartError("REASON is what the payer will read: a line of text")
    verdict = asyncio.run(ask_refusal(_settings().data_dir, Wish(sequence, told.strip())))
    if verdict is None:
        raise StartError("the service does not run: start it, and /health says which entry settling waits for")
    click.echo(verdict.told, err=not verdict.granted)
    if not verdict.granted:
        sys.exit(1)


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


@lease.command()
@click.argument("node_id", type=click.UUID)
@click.option("--force", is_flag=True, help="Although it holds the lease: its data directory is lost for good.")
def forget(node_id: UUID, force: bool) -> None:
    """Remove a node that is gone for good, so that the nodes left no longer reckon with it.

    Its lease, if it held that, goes to the next node that is online. Not for a node that runs: stop it instead, which
    removes it where it is not the only one. A node whose journal may hold payments is to be started, not forgotten.
    Payments that it accepted and did not book are booked when it is started again, and not before.
    """
    asyncio.run(_forget_node(node_id, force))


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
    except DatabaseUnfit as unfit:
        raise StartError(unfit.reason) from unfit
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
    except DatabaseUnfit as unfit:
        raise StartError(unfit.reason) from unfit
    except Problem as problem:
        raise StartError(problem.detail) from problem
    finally:
        database.close()
    if not moved:
        click.echo(f"There is no node {node_id}: `lease` lists them.", err=True)
        sys.exit(1)
    click.echo(f"Node {node_id} stands in from now on.")


async def _forget_node(node_id: UUID, force: bool) -> None:
    database = _database()
    try:
        async with database.transaction() as connection:
            found = await installation.presence(connection, node_id)
            refusal = _reason_to_keep(node_id, found, force)
            if refusal is None:
                await installation.remove(connection, node_id)
    except DatabaseUnfit as unfit:
        raise StartError(unfit.reason) from unfit
    except Problem as problem:
        raise StartError(problem.detail) from problem
    finally:
        database.close()
    if refusal is not None:
        click.echo(refusal, err=True)
        sys.exit(1)
    click.echo(f"Node {node_id} is forgotten.")
    if found is not None and found[1]:
        click.echo(
            "It held the lease, which is free: the next node that is online takes it. Should its data directory turn "
            "up, start it only while the database is up: it then books what its journal holds, and knows that it does "
            "not stand in."
        )


def _reason_to_keep(node_id: UUID, found: tuple[float, bool] | None, force: bool) -> str | None:
    if found is None:
        return f"There is no node {node_id}: `lease` lists them."
    seconds, holds_lease = found
    if seconds < GONE_SECONDS:
        return (
            f"Node {node_id} was seen {seconds:.0f} s ago. If it runs, stop it, or it would be back within a second; "
            f"if it does not, try again {GONE_SECONDS} s after it was last seen."
        )
    if holds_lease and not force:
        return (
            f"Node {node_id} holds the lease. Where it only cannot reach the database, it accepts payments at this "
            "moment, and another node that stands in, too, would spend the same money; and its journal may hold "
            "payments that are not booked yet. If its data directory is there, start it and let it settle. If it is "
            f"lost for good, and no process runs on it: lease forget --force {node_id}"
        )
    return None


def _settings() -> Settings:
    return Settings.from_environment(read_environment())


def _database() -> Database:
    settings = _settings()
    return Database(settings.database_url or EmbeddedPostgres(settings.data_dir).dsn, connections=1)
