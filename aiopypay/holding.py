"""Holding a transaction open while something is waited for that is no affair of the database's."""

import asyncio
from typing import TypeVar

from aiopypay import driver
from aiopypay.database import DEADLINE_SECONDS
from aiopypay.statements import Connection, fetch

# Well below the idle_in_transaction_session_timeout (3 s), and below the deadline.
ASKED_EVERY_SECONDS = 0.5

Result = TypeVar("Result")


async def held_open(connection: Connection, awaited: "asyncio.Future[Result]") -> Result:
    """Returns what is awaited, or raises it. The deadline of the database begins anew as often as it shows itself.

    Costs nothing where the answer is there. Otherwise PostgreSQL is asked now and then: it does not take the session
    for idle, and where it is lost this raises at once what a statement does. Who is cancelled leaves `awaited` alone.
    """
    raw: driver.Connection = connection.connection
    while not awaited.done():
        if raw.deadline is not None and not raw.deadline.expired():
            raw.deadline.reschedule(asyncio.get_running_loop().time() + DEADLINE_SECONDS)
        await asyncio.wait({awaited}, timeout=ASKED_EVERY_SECONDS)
        if not awaited.done():
            await fetch(connection, "SELECT 1")
    return awaited.result()
