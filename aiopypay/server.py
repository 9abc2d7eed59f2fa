"""Serves the application from its start, which waits for the database, to a stop that lets running batches finish."""

import asyncio
import logging
import signal
import time

import psycopg2
from aiohttp import web

from aiopypay import migrations, superuser
from aiopypay.app import create_app
from aiopypay.errors import DatabaseUnavailable, StartError
from aiopypay.settings import Settings

START_PATIENCE_SECONDS = 30
STOP_PATIENCE_SECONDS = 10
KEEPALIVE_SECONDS = 75
# One header may carry a long password; what is longer still is refused by aiohttp.
HEADER_BYTES_MAX = 16 * 1024

logger = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """Serves until SIGINT or SIGTERM. Raises StartError with one line where it cannot start."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    start = asyncio.create_task(_start(settings))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({start, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not start.done():
        start.cancel()
        await asyncio.wait({start})
        return
    runner = start.result()
    await stopped
    logger.info("Stopping: no new requests; running ones finish.")
    await runner.cleanup()


async def _start(settings: Settings) -> web.AppRunner:
    await _prepare_database(settings)
    app = create_app(settings)
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=STOP_PATIENCE_SECONDS,
        max_field_size=HEADER_BYTES_MAX,
        max_line_size=HEADER_BYTES_MAX,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port, backlog=1024).start()
    except OSError as error:
        await runner.cleanup()
        raise StartError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): "
            "set APP_HOST and APP_PORT to a free address"
        ) from error
    logger.info("Serving on http://%s:%s", settings.host, settings.port)
    return runner


async def _prepare_database(settings: Settings) -> None:
    """Migrates and gives the superuser a password, waiting up to 30 s for the database to come up."""
    assert settings.database_url is not None  # noqa: S101 - the caller has chosen one
    deadline = time.monotonic() + START_PATIENCE_SECONDS
    while True:
        try:
            await asyncio.to_thread(migrations.apply, settings.database_url)
            await superuser.ensure_password(settings)
        except (psycopg2.OperationalError, DatabaseUnavailable) as error:
            if time.monotonic() > deadline:
                raise StartError(
                    f"the database did not answer within {START_PATIENCE_SECONDS} s: {' '.join(str(error).split())}"
                ) from error
            logger.info("Waiting for the database: %s", " ".join(str(error).split()))
        else:
            return
        await asyncio.sleep(0.5)
