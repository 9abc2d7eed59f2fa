"""The commands: `aiopypay serve|migrate|db …`, also as `python -m aiopypay …`."""

import asyncio
import contextlib
import dataclasses
import logging
import signal
import sys
from collections.abc import Iterator
from types import FrameType

import click
import psycopg2
import uvloop

from aiopypay.database_commands import db, whereabouts
from aiopypay.embedded import EmbeddedError, EmbeddedPostgres, StoppedByOperator
from aiopypay.errors import StartError
from aiopypay.setting_names import SettingsError
from aiopypay.settings import Settings, read_environment
from aiopypay.stand_in_commands import journal, lease
from aiopypay.translation import one_line

logger = logging.getLogger("aiopypay")


class Stopped(BaseException):
    """SIGINT or SIGTERM came while nothing else handled it."""


def main() -> None:
    """The console script. Expected errors are one line on stderr and exit status 1."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise_stopped)
    try:
        commands(prog_name="aiopypay")
    except (SettingsError, EmbeddedError, StartError, psycopg2.Error) as error:
        click.echo(f"aiopypay: {one_line(error)}", err=True)
        sys.exit(1)
    except Stopped as stopped:
        sys.exit(128 + stopped.args[0])


@click.group()
def commands() -> None:
    """A payments backend that keeps taking payments while its database is down.

    Settings come from the environment and a .env file; docs/OPERATING.md lists them.
    """


@commands.command()
@click.option("--debug", is_flag=True, help="Log at level DEBUG.")
def serve(debug: bool) -> None:
    """Serve over HTTP on APP_HOST:APP_PORT until SIGINT or SIGTERM.

    Starts the embedded PostgreSQL where DATABASE_URL and POSTGRES_HOST name no other, and stops it in the end.
    Outstanding migrations are applied first.
    """
    _configure_logging(logging.DEBUG if debug else logging.INFO)
    try:
        settings = Settings.from_environment(read_environment())
        with _database(settings, required=False) as found:
            _run_server(found)
    except Stopped:
        # Asked to stop before the server was there to do it: that is a clean stop too.
        return


@commands.command()
def migrate() -> None:
    """Apply outstanding migrations, each once, and name them.

    Starts the embedded PostgreSQL for that time if it is the one and does not run.
    """
    from aiopypay import migrations
    from aiopypay.database import check_fitness

    _configure_logging(logging.WARNING)
    with _database(Settings.from_environment(read_environment()), required=True) as settings:
        assert settings.database_url is not None  # noqa: S101 - it is found by now
        url = settings.migration_url or settings.database_url
        asyncio.run(check_fitness(url))
        applied = migrations.apply(url, settings.service_role)
    for name in applied:
        click.echo(f"Applied {name}.")
    if not applied:
        click.echo("Nothing to apply.")


commands.add_command(db)
commands.add_command(journal)
commands.add_command(lease)


@contextlib.contextmanager
def _database(settings: Settings, *, required: bool) -> Iterator[Settings]:
    """The settings with the database's URLs. An embedded server that is started here is stopped in the end.

    Raises `StoppedByOperator` while the operator keeps the embedded server stopped, if it is required.
    """
    if settings.database_url is not None:
        yield settings
        return
    embedded = EmbeddedPostgres(settings.data_dir)
    try:
        try:
            embedded.start()
            logger.info("The embedded PostgreSQL runs: %s.", whereabouts(embedded))
        except StoppedByOperator as error:
            if required:
                raise
            logger.warning("%s Until then there is no database.", error)
            embedded.initialise()
        yield dataclasses.replace(settings, database_url=embedded.dsn, migration_url=embedded.owner_dsn)
    finally:
        _ignore_signals()
        if embedded.stop_if_started():
            logger.info("The embedded PostgreSQL is stopped.")


def _run_server(settings: Settings) -> None:
    from aiopypay import server

    async def run() -> None:
        loop, serving = asyncio.get_running_loop(), asyncio.ensure_future(server.serve(settings))
        for number in (signal.SIGINT, signal.SIGTERM):
            # Until the server puts its own handlers in place; an exception from a handler would be lost in the loop.
            loop.add_signal_handler(number, serving.cancel)
        try:
            await serving
        except asyncio.CancelledError:
            logger.info("Stopped before the service was up.")
        finally:
            # The event loop gives back the default handlers; a second Ctrl-C must not cut the clean stop short.
            _ignore_signals()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def _configure_logging(level: int) -> None:
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def _raise_stopped(number: int, _frame: FrameType | None) -> None:
    _ignore_signals()
    raise Stopped(number)


def _ignore_signals() -> None:
    """From here on the process stops anyway. Not SIG_IGN, which child processes would inherit."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)


if __name__ == "__main__":
    main()
