"""The commands about the embedded PostgreSQL: `aiopypay db start|stop|status|psql`."""

import os
import sys
from collections.abc import Sequence

import click
import psycopg2
from psycopg2.extensions import parse_dsn

from aiopypay.embedded import EmbeddedError, EmbeddedPostgres
from aiopypay.settings import Settings, read_environment

# What pg_ctl's status says of a server that does not run, after the Linux Standard Base.
EXIT_NOT_RUNNING = 3
CONNECT_SECONDS = 5
# psql reads the connection from these, so that no password stands among its arguments.
PSQL_VARIABLES = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "dbname": "PGDATABASE",
    "password": "PGPASSWORD",
    # For a psql that knows it, from version 16 on.
    "require_auth": "PGREQUIREAUTH",
}


@click.group(short_help="Start, stop and look into the embedded PostgreSQL.")
def db() -> None:
    """Start, stop and look into the embedded PostgreSQL under APP_DATA_DIR."""


@db.command(short_help="Start it, made first if it is not there.")
def start() -> None:
    """Start the embedded PostgreSQL, made first if it is not there, and clear the mark that `stop` left."""
    embedded = _embedded()
    embedded.clear_operator_mark()
    started = embedded.start(for_operator=True)
    click.echo(f"PostgreSQL {'started' if started else 'was running already'}: {whereabouts(embedded)}.")


@db.command(short_help="Stop it, and keep it stopped until `start`.")
def stop() -> None:
    """Stop the embedded PostgreSQL and leave a mark: until `start`, `serve` runs without it."""
    embedded = _embedded()
    embedded.set_operator_mark()
    stopped = embedded.stop()
    click.echo(f"PostgreSQL {'stopped' if stopped else 'was not running'}. It stays stopped until ./run.sh db start.")


@db.command()
def status() -> None:
    """Tell whether the embedded PostgreSQL runs, and where. Exit status 3 if it does not."""
    embedded = _embedded()
    if embedded.is_running():
        click.echo(f"PostgreSQL is running: {whereabouts(embedded)}.")
        return
    reason = " (stopped with ./run.sh db stop)" if embedded.stopped_by_operator else ""
    click.echo(f"PostgreSQL is not running{reason}. Its data: {embedded.cluster}.")
    sys.exit(EXIT_NOT_RUNNING)


@db.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--role",
    type=click.Choice(["owner", "service", "administrator"]),
    default="owner",
    help="As whom: who owns the tables (the default), the service, which may change little, or PostgreSQL's superuser.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def psql(role: str, arguments: Sequence[str]) -> None:
    """Open psql on the embedded PostgreSQL. ARGUMENTS are psql's own, for example -c 'SELECT 1'."""
    embedded = _embedded()
    if not embedded.is_running():
        raise EmbeddedError("The embedded PostgreSQL is not running: start it with ./run.sh db start.")
    dsns = {"owner": embedded.owner_dsn, "service": embedded.dsn, "administrator": embedded.administrator_dsn}
    # A psql before version 16 would tell the password to whoever asks: who listens there proves first to know it.
    psycopg2.connect(dsns[role], connect_timeout=CONNECT_SECONDS).close()
    parameters = parse_dsn(dsns[role])
    connection = {variable: parameters[name] for name, variable in PSQL_VARIABLES.items()}
    program = str(embedded.program("psql"))
    os.execve(program, [program, *arguments], os.environ | connection)


def whereabouts(embedded: EmbeddedPostgres) -> str:
    """Where a running server is found, as part of a sentence."""
    return f"process {embedded.pid}, 127.0.0.1 port {embedded.port}, data in {embedded.cluster}"


def _embedded() -> EmbeddedPostgres:
    settings = Settings.from_environment(read_environment())
    if settings.database_url is not None:
        click.echo("Note: DATABASE_URL or POSTGRES_HOST is set, so that `serve` uses that database.", err=True)
    return EmbeddedPostgres(settings.data_dir)
