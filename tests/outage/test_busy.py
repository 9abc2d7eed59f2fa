"""A busy database is not a lost one, and a failing disk takes neither the service nor anybody's money."""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import NoReturn

import pytest

from aiopypay.errors import DatabaseBusy, Overloaded, Problem, StandInFenced
from aiopypay.stand_in.directory import MARK
from aiopypay.statements import fetch

from .node import Holder, add_holders, balance_of, fail_writes, refused_orders, running
from .postgres import PostgresServer
from .waiting import Stopwatch, eventually

COMMISSION_ACCOUNT = 1
ANSWERED_SECONDS = 3.5
SOON = 5


@pytest.fixture
def postgres(migrated_postgres: PostgresServer) -> PostgresServer:
    """With the service's schema in it."""
    return migrated_postgres


@pytest.fixture
def holders(postgres: PostgresServer) -> list[Holder]:
    """Users with 100 each."""
    return add_holders(postgres, 40)


async def test_slow_readers_do_not_take_the_database_away(
    postgres: PostgresServer, directory: Path, holders: list[Holder]
) -> None:
    async with running(postgres.dsn, directory) as node:
        await node.filled()

        async def read(seconds: float) -> type[Problem] | None:
            try:
                async with node.others.transaction() as connection:
                    await fetch(connection, f"SELECT pg_sleep({seconds})")
            except Problem as problem:
                return type(problem)
            return None

        # Each is within what one statement may take; the second ones would not be together with their wait.
        answers = await asyncio.gather(*(read(0.35) for _ in range(3)), *(read(1.15) for _ in range(6)))
        assert set(answers) <= {None, Overloaded, DatabaseBusy}
        assert None in answers
        assert node.switch.is_up
        assert node.switch.epoch == 0
        assert await node.pay(holders[0], holders[1], "1") == 200


class TestLockedRow:
    async def test_one_that_all_need_answers_503_soon(
        self, postgres: PostgresServer, directory: Path, holders: list[Holder]
    ) -> None:
        async with running(postgres.dsn, directory) as node:
            await node.filled()
            watch = Stopwatch()
            with _locked(postgres, COMMISSION_ACCOUNT):
                answers = await asyncio.gather(*(node.pay(holder, holders[0], "1") for holder in holders[1:]))
            assert set(answers) == {503}
            assert watch.seconds < ANSWERED_SECONDS
            assert node.switch.is_up
            assert await node.pay(holders[1], holders[0], "1") == 200
        assert balance_of(postgres, holders[0]) == 101

    async def test_of_one_payer_leaves_the_others_alone(
        self, postgres: PostgresServer, directory: Path, holders: list[Holder]
    ) -> None:
        locked_out, payee, *others = holders
        async with running(postgres.dsn, directory) as node:
            await node.filled()
            watch = Stopwatch()
            with _locked(postgres, locked_out.account):
                answers = await asyncio.gather(*(node.pay(holder, payee, "1") for holder in [locked_out, *others]))
            assert answers == [503] + [200] * len(others)
            assert watch.seconds < ANSWERED_SECONDS
            assert node.switch.is_up
        assert balance_of(postgres, locked_out) == 100
        assert balance_of(postgres, payee) == 100 + len(others)


class TestFailingDisk:
    async def test_a_fenced_node_comes_back_online(
        self, postgres: PostgresServer, directory: Path, holders: list[Holder], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        anna, bert, *_ = holders
        async with running(postgres.dsn, directory) as node:
            await node.filled()
            with monkeypatch.context() as patch:
                fail_writes(node, patch)
                assert await node.pay(anna, bert, "1") == 200
            assert node.stand_in.deputy.fence()
            await asyncio.to_thread(postgres.stop)
            assert await node.pay(anna, bert, "1") == 503
            await asyncio.to_thread(postgres.start)

            await node.online()
            assert await node.pay(anna, bert, "1") == 200
        assert balance_of(postgres, bert) == 102

    @pytest.mark.parametrize("durable_too", [True, False], ids=["each write", "writes that nobody waits for"])
    @pytest.mark.parametrize("way", ["immutable", "refused"])
    async def test_nothing_is_booked_that_a_restart_would_not_know(
        self,
        postgres: PostgresServer,
        directory: Path,
        holders: list[Holder],
        monkeypatch: pytest.MonkeyPatch,
        way: str,
        durable_too: bool,
    ) -> None:
        anna, bert, *_ = holders
        async with running(postgres.dsn, directory, killed=True) as node:
            await node.filled()
            assert await node.pay(anna, bert, "1") == 200
            await node.remembered(anna)
            with _mark_that_stays(directory, monkeypatch, way):
                fail_writes(node, monkeypatch, durable_too=durable_too)
                first = await node.pay(anna, bert, "20")
                assert first == (503 if durable_too else 200)
                await eventually(lambda: node.stand_in.deputy.fence() is not None, SOON, "the node is fenced")
                assert await node.pay(anna, bert, "20") == 503
                with pytest.raises(StandInFenced):
                    async with node.stand_in.changes.transaction(anna.username):
                        pass
                await asyncio.to_thread(postgres.stop)
        assert (directory / "stand-in" / MARK).exists()

        # The disk is repaired; the database stays away. What was told 503 may be booked or not, but this node knows.
        async with running(postgres.dsn, directory) as node:
            assert node.stand_in.deputy.fence() is None
            expected = await node.expected(anna)
            assert await node.pay(anna, bert, "70") == 202
            await asyncio.to_thread(postgres.start)
            await node.online()
        assert refused_orders(postgres) == []
        assert balance_of(postgres, anna) == expected - Decimal("70.70")


@contextlib.contextmanager
def _locked(postgres: PostgresServer, account: int) -> Iterator[None]:
    """Somebody beside the service holds this account's row."""
    with postgres.connected(administrator=True) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN; SELECT 1 FROM accounts WHERE id = %s FOR UPDATE", [account])
        try:
            yield
        finally:
            cursor.execute("ROLLBACK")


@contextlib.contextmanager
def _mark_that_stays(directory: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> Iterator[None]:
    """Nothing beside the store can be removed: by the file system's word, or where that takes none, by ours."""
    if way == "refused":
        with monkeypatch.context() as patch:
            patch.setattr("aiopypay.stand_in.node.distrust", _refuse)
            yield
        return
    problem = _change_attributes("+i", directory / "stand-in")
    if problem:
        pytest.skip(f"no directory can be made immutable here: {problem}")
    try:
        yield
    finally:
        _change_attributes("-i", directory / "stand-in")


def _change_attributes(how: str, path: Path) -> str | None:
    """Returns why it failed."""
    program = shutil.which("chattr")
    if program is None:
        return "there is no chattr"
    done = subprocess.run([program, how, path], capture_output=True, text=True, check=False)
    return (done.stderr.strip() or "chattr failed") if done.returncode else None


def _refuse(directory: Path) -> NoReturn:
    raise PermissionError(f"{directory} is read-only")
