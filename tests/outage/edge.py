"""What the tests of the edge share: a table to write to, orders to post, and a way to look from beside."""

import asyncio
import contextlib
import tempfile
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from aiopypay.database import Database
from aiopypay.embedded.roles import SERVICE
from aiopypay.errors import StatementRejected
from aiopypay.group_commit import GroupCommit
from aiopypay.idempotency import fingerprint, order_id
from aiopypay.ledger import TransferOrder
from aiopypay.settings import Settings
from aiopypay.stand_in.lifecycle import StandIn
from aiopypay.stand_in.mode import ModeSwitch
from aiopypay.statements import Connection, fetch

from .postgres import PostgresServer

CREATE_MARKS = (
    "CREATE TABLE IF NOT EXISTS marks (id UUID PRIMARY KEY, number BIGINT GENERATED ALWAYS AS IDENTITY);"
    f"GRANT ALL ON marks TO {SERVICE}"
)
LOCK_MARKS = "LOCK TABLE marks IN ACCESS EXCLUSIVE MODE"


async def mark(connection: Connection) -> str:
    """Writes a row that is there if, and only if, the transaction was committed; returns its id."""
    mark_id = str(uuid.uuid4())
    await fetch(connection, "INSERT INTO marks (id) VALUES (%(id)s)", {"id": mark_id})
    return mark_id


def is_marked(postgres: PostgresServer, mark_id: str) -> bool:
    """Whether that row is there."""
    return bool(postgres.execute("SELECT 1 FROM marks WHERE id = %s", mark_id))


async def backend_of(connection: Connection) -> int:
    """The process id of the server's side of the connection."""
    return int((await fetch(connection, "SELECT pg_backend_pid()"))[0][0])


def a_transfer(key: str, amount: str, *, user_id: int, payer: int, payee: int) -> TransferOrder:
    """An order as the handler makes it of a request with an Idempotency-Key."""
    return TransferOrder(
        id=order_id(user_id, key),
        user_id=user_id,
        from_account_id=payer,
        to_account_id=payee,
        amount=Decimal(amount),
        comment=None,
        fingerprint=fingerprint("test", payer=payer, payee=payee, amount=Decimal(amount)),
        idempotency_key=key,
    )


@contextlib.asynccontextmanager
async def failing(
    database: Database, kind: type[Exception], *seconds: float, sqlstate: str | None = None
) -> AsyncIterator[Connection]:
    """A transaction that must fail, with exactly this kind of problem (a CommitInDoubt is no DatabaseUnavailable)."""
    with pytest.raises(kind) as raised:
        async with database.transaction(*seconds) as connection:
            yield connection
    assert type(raised.value) is kind
    if sqlstate is not None:
        assert isinstance(raised.value, StatementRejected)
        assert raised.value.sqlstate == sqlstate


@dataclass(frozen=True)
class EdgeNode:
    """What posts orders, and what stands in for the database, as the service puts them together."""

    group_commit: GroupCommit
    stand_in: StandIn
    switch: ModeSwitch


@contextlib.asynccontextmanager
async def running_node(database_url: str) -> AsyncIterator[EdgeNode]:
    """A node with a data directory of its own, without HTTP in front of it."""
    switch = ModeSwitch()
    with tempfile.TemporaryDirectory(prefix="aiopypay-") as directory:
        settings = Settings(database_url=database_url, data_dir=await asyncio.to_thread(_made, directory))
        payments = Database(database_url, connections=3, link=switch)
        others = Database(database_url, connections=3, link=switch)
        stand_in = StandIn(settings, others, switch)
        group_commit = GroupCommit(payments, stand_in.deputy, stand_in.writers_lock)
        await stand_in.start()
        try:
            yield EdgeNode(group_commit, stand_in, switch)
        finally:
            await group_commit.drain()
            await stand_in.stop()
            payments.close()
            others.close()


def _made(directory: str) -> Path:
    path = Path(directory) / "var"
    path.mkdir(mode=0o700)
    return path
