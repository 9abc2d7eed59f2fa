"""What comes before serving: the database is waited for, migrated, and looked at; the superuser is given a password."""

import asyncio
import logging
import time

import psycopg2

from aiopypay import migrations, superuser
from aiopypay.database import Database
from aiopypay.errors import DatabaseUnfit, Problem, StartError
from aiopypay.money import decimals_of
from aiopypay.refused_connections import Refusal, refusal_of
from aiopypay.settings import Settings
from aiopypay.stand_in.lifecycle import has_met_database
from aiopypay.store.accounts import currencies
from aiopypay.store.installation import owns_tables
from aiopypay.store.schema import has_schema
from aiopypay.translation import ServerUnproven, one_line

START_PATIENCE_SECONDS = 30
RETRY_SECONDS = 0.5
# What does not pass by itself, by SQLSTATE or its class, and what is to be done.
ADVICE = {
    "28": "check the user and the password in {setting}, and pg_hba.conf; a role is made with "
    "CREATE ROLE … LOGIN PASSWORD '…'",
    "3D": "name another in {setting}, or make it with CREATE DATABASE … OWNER … ENCODING 'UTF8' TEMPLATE template0",
    "3F": "the search_path of the role names no schema that is there: make it, or ALTER ROLE … SET search_path",
    "25006": "connect the primary, or have ALTER DATABASE … RESET default_transaction_read_only",
    "42501": "the role that migrates must own what is there, and make more (GRANT CREATE, USAGE ON SCHEMA …): give it "
    "that, or name one in APP_MIGRATION_URL that has it",
    "42P01": "APP_MIGRATION_URL and DATABASE_URL must lead to the same database, and both roles need one search_path",
}

logger = logging.getLogger(__name__)


async def prepare_database(settings: Settings) -> None:
    """Migrates and gives the superuser a password. Waits up to 30 s for the database to come up, but not where this
    node has met it before: then it starts without.

    Raises StartError, at once for what no waiting helps.
    """
    deadline = time.monotonic() + START_PATIENCE_SECONDS
    while True:
        try:
            await _prepare(settings)
        except DatabaseUnfit as unfit:
            raise StartError(unfit.reason) from unfit
        except (psycopg2.Error, Problem) as problem:
            error = problem.__cause__ if isinstance(problem, Problem) and problem.__cause__ else problem
            reason = one_line(error)
            if has_met_database(settings):
                logger.warning("The database does not answer: %s", reason)
                return
            await _raise_what_stays(settings, error)
            # Away, starting up, busy: whatever it is, it may pass. A migration that fails is a StartError.
            if time.monotonic() > deadline:
                raise StartError(f"the database did not answer within {START_PATIENCE_SECONDS} s: {reason}") from error
            logger.info("Waiting for the database: %s", reason)
        else:
            return
        await asyncio.sleep(RETRY_SECONDS)


async def _prepare(settings: Settings) -> None:
    assert settings.database_url is not None  # noqa: S101 - the caller has chosen one
    migration_url = settings.migration_url or settings.database_url
    is_there = await _has_schema(migration_url)
    if not is_there and has_met_database(settings):
        # Not the database that this node knows. Nothing is written into it; recovery tells the operator.
        return
    if migration_url != settings.database_url and await _has_schema(settings.database_url) and not is_there:
        raise StartError(f"the tables are there for one role and not for the other: {ADVICE['42P01']}")
    await asyncio.to_thread(migrations.apply, migration_url, settings.service_role)
    await superuser.ensure_password(settings)
    await _check(settings)


async def _raise_what_stays(settings: Settings, error: BaseException) -> None:
    """Raises StartError where the failure, seen from a first start, does not pass by itself."""
    if isinstance(error, ServerUnproven):
        raise StartError(one_line(error)) from error
    code = getattr(error, "pgcode", None)
    if code is not None:
        _raise_if_final(Refusal(code, one_line(error)), "DATABASE_URL", error)
    elif isinstance(error, psycopg2.OperationalError):
        for setting, url in (("APP_MIGRATION_URL", settings.migration_url), ("DATABASE_URL", settings.database_url)):
            refusal = None if url is None else await asyncio.to_thread(refusal_of, url)
            if refusal is not None:
                _raise_if_final(refusal, setting, error)


def _raise_if_final(refusal: Refusal, setting: str, error: BaseException) -> None:
    for code, advice in ADVICE.items():
        if refusal.sqlstate.startswith(code):
            raise StartError(f"{refusal.told}: {advice.format(setting=setting)}") from error


async def _check(settings: Settings) -> None:
    """Raises StartError where a setting names a currency that there is not, or a credit finer than its currency.

    Says so where the service's role owns the tables.
    """
    assert settings.database_url is not None  # noqa: S101 - the caller has chosen one
    database = Database(settings.database_url, connections=1)
    try:
        async with database.transaction() as connection:
            decimals = {currency.id: currency.decimals for currency in await currencies(connection)}
            is_owner = await owns_tables(connection)
    finally:
        database.close()
    if is_owner:
        logger.warning(
            "The service's database role owns the tables, so that only the service itself keeps it from changing "
            "history: set APP_MIGRATION_URL (docs/OPERATING.md)"
        )
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
