"""Statements on a connection: prepared once, executed with parameters, their rows as plain tuples."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiopg.sa
import psycopg2

from aiopypay import driver
from aiopypay.addresses import STATEMENT_MILLISECONDS
from aiopypay.translation import OUTDATED

Connection = aiopg.sa.SAConnection
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that PostgreSQL plans once a connection. `$1`, `$2`, … stand for its parameters, in their order."""

    name: str
    parameters: tuple[str, ...]
    sql: str

    @property
    def execution(self) -> str:
        """The command that executes it, with its parameters by name."""
        return f"EXECUTE {self.name} ({', '.join(f'%({name})s' for name in self.parameters)})"

    @property
    def preparation(self) -> str:
        """The command that makes it known to a connection."""
        return f"PREPARE {self.name} AS {self.sql}"


async def prolong(connection: Connection, factor: float) -> None:
    """Lets the statements of this transaction take longer than usual; its deadline is the caller's."""
    await fetch(connection, f"SET LOCAL statement_timeout = {int(factor * STATEMENT_MILLISECONDS)}")


async def fetch(
    connection: Connection, statement: str | Statement, parameters: Mapping[str, Any] | None = None
) -> list[Row]:
    """Executes one statement and returns its rows as plain tuples.

    It takes the driver's cursor: aiopg.sa's results cost as much again, and only add names to the columns.
    """
    raw: driver.Connection = connection.connection
    if isinstance(statement, str):
        return await _rows(raw, statement, parameters)
    try:
        if statement.name not in raw.prepared:
            # It stays prepared whatever becomes of the transaction.
            await _rows(raw, statement.preparation)
            raw.prepared.add(statement.name)
        return await _rows(raw, statement.execution, parameters)
    except psycopg2.Error as error:
        if error.pgcode in OUTDATED:
            raw.close()
        raise


async def _rows(raw: driver.Connection, command: str, parameters: Mapping[str, Any] | None = None) -> list[Row]:
    if raw.begins_with_next:
        # Of two commands in one message, the driver returns the result of the last.
        raw.begins_with_next = False
        command = f"BEGIN; {command}"
    cursor = await raw.cursor()
    try:
        await cursor.execute(command, parameters)
        return await cursor.fetchall() if cursor.description else []
    finally:
        cursor.close()
        if raw.statement_seconds is not None:
            _renew_deadline(raw, raw.statement_seconds)


def _renew_deadline(raw: driver.Connection, seconds: float) -> None:
    if raw.deadline is not None and not raw.deadline.expired():
        raw.deadline.reschedule(asyncio.get_running_loop().time() + seconds)
