"""Nodes that go, for good or until their next start: those left count them no more, and have missed nothing."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from aiopypay.stand_in.deputy_work import Standing

from .node import Holder, NodeHere, add_holders, new_directory, running
from .postgres import PostgresServer
from .proxy import Proxy
from .service import NewService, ServiceProcess
from .waiting import eventually

SOON_SECONDS = 5

People = tuple[Holder, Holder]


def node_id(node: NodeHere) -> UUID:
    """Its id in the table of nodes."""
    return node.stand_in._node.node_id


def standing(node: NodeHere) -> Standing:
    """What it knows of itself and the others."""
    return node.stand_in.deputy.standing


def nodes_of(postgres: PostgresServer) -> set[UUID]:
    """Those that are registered."""
    return {UUID(found) for (found,) in postgres.execute("SELECT id::text FROM nodes")}


def not_seen_for_long(postgres: PostgresServer, node: UUID) -> None:
    """As if a minute had passed."""
    postgres.execute("UPDATE nodes SET last_seen_at = now() - interval '1 minute' WHERE id = %s", str(node))


async def alone(node: NodeHere) -> None:
    """Returns when it is the only node, and stands in."""
    await eventually(lambda: standing(node).nodes == 1 and standing(node).holds_lease, SOON_SECONDS, "it is alone")
    assert node.stand_in.deputy.fence() is None


@pytest.fixture
def people(migrated_postgres: PostgresServer) -> People:
    """One pays, the other is paid. Each has 100."""
    payer, payee = add_holders(migrated_postgres, 2)
    return payer, payee


@pytest.fixture
async def first(migrated_postgres: PostgresServer, people: People, directory: Path) -> AsyncIterator[NodeHere]:
    """It was there first, and holds the lease."""
    async with running(migrated_postgres.dsn, directory) as node:
        await node.filled()
        assert standing(node).holds_lease
        yield node


@pytest.fixture
def operator(migrated_postgres: PostgresServer, new_service: NewService) -> ServiceProcess:
    """Who gives commands."""
    return new_service(migrated_postgres.dsn)


async def _refused(operator: ServiceProcess, *arguments: str) -> str:
    ended = await asyncio.to_thread(operator.run, "lease", "forget", *arguments)
    assert ended.returncode == 1, ended.stdout
    return ended.stderr


class TestForgetting:
    async def test_the_node_that_is_left_takes_the_lease_of_one_whose_directory_is_lost(
        self, migrated_postgres: PostgresServer, people: People, operator: ServiceProcess
    ) -> None:
        with new_directory() as directory:
            async with running(migrated_postgres.dsn, directory, killed=True) as node:
                lost = node_id(node)
            shutil.rmtree(directory / "stand-in")
            async with running(migrated_postgres.dsn, directory) as node:
                await node.filled()
                assert (standing(node).holds_lease, standing(node).nodes) == (False, 2)
                not_seen_for_long(migrated_postgres, lost)
                assert "--force" in await _refused(operator, str(lost))
                assert nodes_of(migrated_postgres) == {lost, node_id(node)}
                await operator.operate("lease", "forget", "--force", str(lost))

                await alone(node)
                node.switch.lost("a test")
                assert await node.pay(*people, "60") == 202

    async def test_a_node_that_runs_is_not_forgotten(
        self, migrated_postgres: PostgresServer, first: NodeHere, operator: ServiceProcess
    ) -> None:
        assert "stop it" in await _refused(operator, "--force", str(node_id(first)))
        assert nodes_of(migrated_postgres) == {node_id(first)}

    async def test_a_node_that_there_is_not(self, first: NodeHere, operator: ServiceProcess) -> None:
        nobody = "00000000-0000-4000-8000-000000000000"
        assert nobody in await _refused(operator, nobody)


class TestLeaving:
    async def test_a_node_without_the_lease_leaves_at_a_clean_stop_and_its_last_payments_are_known(
        self, migrated_postgres: PostgresServer, first: NodeHere, people: People
    ) -> None:
        with new_directory() as directory:
            async with running(migrated_postgres.dsn, directory) as second:
                await eventually(lambda: standing(first).nodes == 2, SOON_SECONDS, "they know of each other")
                assert await second.pay(*people, "60") == 200
            assert nodes_of(migrated_postgres) == {node_id(first)}

            await alone(first)
            assert await first.expected(people[1]) == Decimal(160)
            async with running(migrated_postgres.dsn, directory) as second:
                assert nodes_of(migrated_postgres) == {node_id(first), node_id(second)}

    async def test_the_holder_leaves_the_lease_to_the_others_and_knows_it(
        self, migrated_postgres: PostgresServer, people: People
    ) -> None:
        with new_directory() as directory, new_directory() as other_directory:
            async with contextlib.AsyncExitStack() as stack:
                holder = await stack.enter_async_context(running(migrated_postgres.dsn, directory))
                async with running(migrated_postgres.dsn, other_directory) as second:
                    await second.filled()
                    await eventually(lambda: standing(holder).nodes == 2, SOON_SECONDS, "they know of each other")
                    assert await holder.pay(*people, "60") == 200
                    await stack.aclose()

                    await alone(second)
                    # One that has followed nobody yet reads all anew.
                    await second.filled()
                    assert await second.expected(people[1]) == Decimal(160)
                    assert nodes_of(migrated_postgres) == {node_id(second)}
            migrated_postgres.stop()
            async with running(migrated_postgres.dsn, directory) as returned:
                assert "another node holds" in str(returned.stand_in.deputy.fence())

    async def test_one_that_is_alone_stays_with_its_lease(
        self, migrated_postgres: PostgresServer, people: People, directory: Path
    ) -> None:
        async with running(migrated_postgres.dsn, directory) as node:
            await node.filled()
        assert nodes_of(migrated_postgres) == {node_id(node)}
        migrated_postgres.stop()
        async with running(migrated_postgres.dsn, directory) as node:
            assert await node.pay(*people, "60") == 202
            migrated_postgres.start()
            await node.online()


class TestWhatOthersHaveDone:
    """They are counted no more, but what they did is not to be missed."""

    async def test_while_a_node_was_stopped(
        self, migrated_postgres: PostgresServer, people: People, operator: ServiceProcess, directory: Path
    ) -> None:
        async with running(migrated_postgres.dsn, directory) as node:
            await node.filled()
        with new_directory() as elsewhere:
            async with running(migrated_postgres.dsn, elsewhere, killed=True) as other:
                assert await other.pay(*people, "60") == 200
        not_seen_for_long(migrated_postgres, node_id(other))
        await operator.operate("lease", "forget", str(node_id(other)))

        async with running(migrated_postgres.dsn, directory) as node:
            await alone(node)
            await node.filled()
            assert await node.expected(people[1]) == Decimal(160)

    async def test_while_a_node_could_not_reach_the_database(
        self, migrated_postgres: PostgresServer, people: People, directory: Path
    ) -> None:
        async with Proxy(migrated_postgres.port) as proxy:
            async with running(proxy.dsn(migrated_postgres.dsn), directory) as node:
                await node.filled()
                proxy.refuse()
                proxy.reset()
                await eventually(lambda: not node.switch.is_up, SOON_SECONDS, "it notices")
                with new_directory() as elsewhere:
                    async with running(migrated_postgres.dsn, elsewhere) as other:
                        assert await other.pay(*people, "60") == 200
                assert nodes_of(migrated_postgres) == {node_id(node)}
                await proxy.accept()
                await node.online()

                await eventually(lambda: standing(node).departures == 1, SOON_SECONDS, "it knows that one was here")
                await node.filled()
                assert await node.expected(people[1]) == Decimal(160)
