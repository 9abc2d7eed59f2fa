"""Serves the application from its start, which waits for the database, to a stop that lets running batches finish."""

import asyncio
import gc
import logging
import os
import signal

from aiohttp import web

from aiopypay import driver
from aiopypay.app import create_app
from aiopypay.errors import StartError
from aiopypay.http_server import Runner, allow_files
from aiopypay.preparation import prepare_database
from aiopypay.settings import Settings

# Objects made and not freed again; some megabytes.
COLLECTED_AFTER = 20_000

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
        while not start.done():
            start.cancel()
            await asyncio.wait({start}, timeout=1)
        return
    runner = start.result()
    await stopped
    logger.info("Stopping: no new requests; running ones finish.")
    await runner.cleanup()


async def _start(settings: Settings) -> web.AppRunner:
    connections_max = allow_files()
    asyncio.get_running_loop().set_exception_handler(driver.log_loop_failure)
    await prepare_database(settings)
    app = create_app(settings)
    runner = Runner(app, trusted_proxies=settings.trusted_proxies, connections_max=connections_max)
    try:
        await runner.setup()
        await _listen(runner, settings)
    except BaseException:
        # What was begun ends in order, also where something after it has failed, or the start was called off.
        await runner.cleanup()
        raise
    _spare_the_collector()
    if settings.self_deposit:
        logger.warning("Anybody may deposit to themselves: set APP_SELF_DEPOSIT=no before real money is involved.")
    logger.info("Serving on http://%s:%s", settings.host, settings.port)
    return runner


async def _listen(runner: Runner, settings: Settings) -> None:
    try:
        await runner.listen(settings.host, settings.port)
    except OSError as error:
        raise StartError(
            f"cannot listen on {settings.host}:{settings.port} ({os.strerror(error.errno or 0)}): "
            "set APP_HOST and APP_PORT to a free address"
        ) from error


def _spare_the_collector() -> None:
    """What the start has made stays: the garbage collector need not look at it again, nor as often as by default.

    A request makes few cycles and many objects; looking for them was a tenth of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTED_AFTER)
