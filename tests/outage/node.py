"""A node in the test's own process: a real store on a real PostgreSQL, with nothing but HTTP left out."""

import asyncio
import contextlib
import errno
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from aiopypay.database import Database
from aiopypay.errors import Problem
from aiopypay.group_commit import GroupCommit
from aiopypay.idempotency import fingerprint, order_id
from aiopypay.ledger import TransferOrder
from aiopypay.settings import Settings
from aiopypay.stand_in.lifecycle import StandIn
from aiopypay.stand_in.mode import ModeSwitch
from aiopypay.stand_in.records import KnownAccount
from aiopypay.stand_in.store import Store
from aiopypay.stand_in.tail import Mark
from aiopypay.store.orders import OrderRecord
from aiopypay.units import Unit

from .postgres import PostgresServer
from .waiting import eventually

FILLED_SECONDS = 20
ONLINE_SECONDS = 15

ADD_USERS = """
INSERT INTO users (username, full_name, password_hash) SELECT 'user' || number, 'User', '!'
FROM generate_series(1, %s) AS number
"""
ADD_ACCOUNTS = "INSERT INTO accounts (user_id, currency_id, amount) SELECT id, 'USD', %s FROM users WHERE id > 1"
# Accounts that open with money owe it to the external one.
TAKE_CREDIT = "UPDATE accounts SET amount = amount - %s WHERE id = -1"
PEOPLE = (
    "SELECT u.username, u.id, a.id FROM accounts AS a JOIN users AS u ON u.id = a.user_id WHERE u.id > 1 ORDER BY u.id"
)


@dataclass(frozen=True)
class Holder:
    """A user with one account, in dollars."""

    username: str
    user_id: int
    account: int


def add_holders(postgres: PostgresServer, count: int, credit: int = 100) -> list[Holder]:
    """Adds users past the service, each with so much money."""
    postgres.execute(ADD_USERS, count)
    postgres.execute(ADD_ACCOUNTS, credit)
    postgres.execute(TAKE_CREDIT, credit * count)
    return [Holder(*row) for row in postgres.execute(PEOPLE)]


def payment(payer: Holder, payee: Holder, amount: str, key: str | None = None) -> TransferOrder:
    """The order of a request to pay."""
    content = fingerprint(
        "POST /users/{user_id}/transfers",
        from_account_id=payer.account,
        to_account_id=payee.account,
        amount=Decimal(amount),
        comment=None,
    )
    return TransferOrder(
        id=order_id(payer.user_id, key),
        user_id=payer.user_id,
        from_account_id=payer.account,
        to_account_id=payee.account,
        amount=Decimal(amount),
        comment=None,
        fingerprint=content,
        idempotency_key=key,
    )


def balance_of(postgres: PostgresServer, holder: Holder) -> Decimal:
    """What PostgreSQL says."""
    ((amount,),) = postgres.execute("SELECT amount FROM accounts WHERE id = %s", holder.account)
    return Decimal(amount)


def refused_orders(postgres: PostgresServer) -> list[str]:
    """Why orders were refused that had been accepted."""
    return [reason for (reason,) in postgres.execute("SELECT reason FROM orders WHERE status = 'refused'")]


class NodeHere:
    """What the service puts together, without HTTP: payments, everything else, and what stands in."""

    def __init__(self, database_url: str, directory: Path, *, payments_url: str | None = None) -> None:
        self.switch = ModeSwitch()
        self._payments = Database(payments_url or database_url, connections=3, link=self.switch)
        self.others = Database(database_url, connections=3, link=self.switch)
        self.stand_in = StandIn(Settings(database_url=database_url, data_dir=directory), self.others, self.switch)
        self._group_commit = GroupCommit(self._payments, self.stand_in.deputy, self.stand_in.writers_lock)

    @property
    def store(self) -> Store:
        """The store itself, for faults; what is asked of it goes through `remembered`."""
        return self.stand_in._node._store

    async def filled(self) -> None:
        """Returns when everything is remembered."""
        await eventually(lambda: self.stand_in.deputy.filled, FILLED_SECONDS, "everything is remembered")

    async def online(self) -> None:
        """Returns when the database is used again."""
        await eventually(lambda: self.switch.is_up, ONLINE_SECONDS, "online again")

    async def pay(self, payer: Holder, payee: Holder, amount: str, key: str | None = None) -> int:
        """Pays; returns the status: 200 is booked, 202 accepted without the database, any other neither."""
        try:
            answer = await self._group_commit.post(payment(payer, payee, amount, key))
        except Problem as problem:
            return problem.status
        return 200 if isinstance(answer, OrderRecord) else 202

    def refusal(self) -> Problem | None:
        """What GET /health/ready says: the problem of any order, None where one would be judged."""
        return self._group_commit.refusal()

    async def pay_all(self, payer: Holder, payee: Holder, amounts: Sequence[str]) -> list[int]:
        """Pays each of the amounts, in one bulk; returns the statuses as `pay` does."""
        unit = Unit([payment(payer, payee, amount) for amount in amounts])
        return [
            answer.status if isinstance(answer, Problem) else 200 if isinstance(answer, OrderRecord) else 202
            for answer in await self._group_commit.post_all(unit)
        ]

    async def remembered(self, holder: Holder) -> KnownAccount:
        """What this node remembers of an account, once all that was handed to its store is done."""
        known = await self.stand_in._node.run(lambda store: store.account(holder.account))
        assert known is not None
        return known

    async def expected(self, holder: Holder) -> Decimal:
        """The balance that it would tell without the database."""
        known = await self.remembered(holder)
        return known.amount + known.pending

    async def uncertain(self) -> list[str]:
        """The users of whom it does not rely on what it remembers."""
        return await self.stand_in._node.run(Store.uncertain)

    async def stop(self) -> None:
        """A clean stop."""
        await self._group_commit.drain()
        await self.stand_in.stop()
        self._close()

    async def kill(self) -> None:
        """Ends it where it stands: nothing is waited for, and nobody told."""
        running = [*self.stand_in._tasks, *filter(None, [self.stand_in.changes._refresh])]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self.stand_in._recovery.close()
        await self.stand_in._node.close()
        self._close()

    def _close(self) -> None:
        self._payments.close()
        self.others.close()


@contextlib.asynccontextmanager
async def running(
    database_url: str, directory: Path, *, payments_url: str | None = None, killed: bool = False
) -> AsyncIterator[NodeHere]:
    """A node that has started; in the end it is stopped, or `killed`."""
    node = NodeHere(database_url, directory, payments_url=payments_url)
    try:
        await node.stand_in.start()
        yield node
    finally:
        await (node.kill() if killed else node.stop())


@contextlib.contextmanager
def new_directory() -> Iterator[Path]:
    """A data directory, gone in the end."""
    with tempfile.TemporaryDirectory(prefix="aiopypay-", dir="/tmp") as directory:
        path = Path(directory) / "var"
        path.mkdir(mode=0o700)
        yield path


def fail_writes(node: NodeHere, monkeypatch: pytest.MonkeyPatch, *, durable_too: bool = True) -> None:
    """From now on the disk fails under the store: each write, or only those that nobody waits for."""
    tail = node.store._tail
    assert tail is not None
    write = tail.write

    def broken(mark: Mark, *, durable: bool) -> None:
        if durable and not durable_too:
            write(mark, durable=durable)
        else:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(tail, "write", broken)
