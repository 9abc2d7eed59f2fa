"""Serves the application from its start, which waits for the database, to a stop that lets running batches finish."""

import asyncio
import gc
import logging
import os
import signal
import time

import psycopg2
from aiohttp import web

from aiopypay import driver, migrations, superuser
from aiopypay.app import create_app
from aiopypay.database import Database
from aiopypay.errors import DatabaseUnfit, Problem, StartError
from aiopypay.http_server import Runner, allow_files
from aiopypay.money import decimals_of
from aiopypay.settings import Settings
from aiopypay.stand_in.lifecycle import has_met_database
from aiopypay.store.accounts import currencies
from aiopypay.store.schema import has_schema
from aiopypay.translation import one_line

START_PATIENCE_SECONDS = 30
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
    await _prepare_database(settings)
    app = create_app(settings)
    runner = Runner(app, trusted_proxies=settings.trusted_proxies, connections_max=connections_max)
    await runner.setup()
    try:
        await runner.listen(settings.host, settings.port)
    except OSError as error:
        await runner.cleanup()
        raise StartError(
            f"cannot listen on {settings.host}:{settings.port} ({os.strerror(error.errno or 0)}): "
            "set APP_HOST and APP_PORT to a free address"
        ) from error
    _spare_the_collector()
    if settings.self_deposit:
        logger.warning("Anybody may deposit to themselves: set APP_SELF_DEPOSIT=no before real money is involved.")
    logger.info("Serving on http://%s:%s", settings.host, settings.port)
    return runner


def _spare_the_collector() -> None:
    """What the start has made stays: the garbage collector need not look at it again, nor as often as by default.

    A request makes few cycles and many objects; looking for them was a tenth of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTED_AFTER)


async def _prepare_database(settings: Settings) -> None:
    """Migrates and gives the superuser a password. Waits up to 30 s for the database to come up, but not where this
    node has met it before: then it starts without.
    """
    assert settings.database_url is not None  # noqa: S101 - the caller has chosen one
    deadline = time.monotonic() + START_PATIENCE_SECONDS
    while True:
        try:
            if not await _has_schema(settings.database_url) and has_met_database(settings):
                # Not the database that this node knows. Nothing is written into it; recovery tells the operator.
                return
            await asyncio.to_thread(migrations.apply, settings.database_url)
            await superuser.ensure_password(settings)
            await _check_currencies(settings)
        except DatabaseUnfit as unfit:
            raise StartError(unfit.reason) from unfit
        except (psycopg2.Error, Problem) as error:
            # Away, starting up, read-only, busy: whatever it is, it may pass. A migration that fails is a StartError.
            reason = one_line(error.__cause__ or error)
            if has_met_database(settings):
                logger.warning("The database does not answer: %s", reason)
                return
            if time.monotonic() > deadline:
                raise StartError(f"the database did not answer within {START_PATIENCE_SECONDS} s: {reason}") from error
            logger.info("Waiting for the database: %s", reason)
        else:
            return
        await asyncio.sleep(0.5)


async def _check_currencies(settings: Settings) -> None:
    """Raises StartError where a setting names a currency that there is not, or a credit finer than its currency."""
    assert settings.database_url is not None  # noqa: S101 - the caller has chosen one
    database = Database(settings.database_url, connections=1)
    try:
        async with database.transaction() as connection:
            decimals = {currency.id: currency.decimals for currency in await currencies(connection)}
    finally:
        database.close()
    if settings.base_currency not in decimals:
        raise StartError(f"APP_BASE_CURRENCY is {settings.base_currency}, which is no currency here, for example USD")
    for currency_id, amount in settings.signup_credit.items():
        if currency_id not in decimals:
            raise StartError(f"APP_SIGNUP_CREDIT names {currency_id}, which is no currency here, for example USD:100")
        if decimals_of(amount) > decimals[currency_id]:
            raise StartError(
                f"APP_SIGNUP_CREDIT has {amount} {currency_id}, which has at most {decimals[currency_id]} decimals, "
                f"for example {currency_id}:100"
            )


async def _has_schema(database_url: str) -> bool:
    """Tells whether aiopypay's tables are there.

    Raises DatabaseUnfit where it must not be used, DatabaseUnavailable where it does not answer in time: migrations
    have no deadline.
    """
    database = Database(database_url, connections=1)
    try:
        async with database.transaction() as connection:
            return await has_schema(connection)
    finally:
        database.close()
