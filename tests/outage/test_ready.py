"""Whether a load balancer should send orders here is what an order would be told, in every state of the node."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from aiopypay.answers import traits_of
from aiopypay.handlers.operation import get_ready
from aiopypay.stand_in import disk
from aiopypay.stand_in.deputy_work import Standing

from .node import Holder, NodeHere, add_holders, running
from .postgres import PostgresServer
from .waiting import eventually

SOON = 20


async def _says_so(node: NodeHere, people: list[Holder], status: int, problem: str | None = None) -> None:
    """Readiness and an order say the same."""
    refusal = node.refusal()
    assert (refusal and refusal.slug) == problem, refusal
    assert refusal is None or type(refusal) in traits_of(get_ready).problems, "not in the document"
    payer, payee = people
    assert await node.pay(payer, payee, "0.01") == status
    if refusal is not None:
        assert refusal.status == status
        assert refusal.retry_after_seconds


async def test_in_each_state_it_says_what_an_order_is_told(
    migrated_postgres: PostgresServer, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = add_holders(migrated_postgres, 2)
    monkeypatch.setattr(disk, "LOOK_SECONDS", 0.05)
    async with running(migrated_postgres.dsn, directory) as node:
        deputy, store_node = node.stand_in.deputy, node.stand_in._node
        await node.filled()
        await _says_so(node, people, 200)
        go_on = threading.Event()
        store_node.disk.do(lambda: [None] if go_on.wait(SOON) else None)
        await eventually(lambda: store_node.disk.hangs, SOON, "the disk hangs")
        await _says_so(node, people, 503, "disk-hangs")
        go_on.set()
        await eventually(lambda: not store_node.disk.hangs, SOON, "the disk answers")

        migrated_postgres.stop()
        await eventually(lambda: not node.switch.is_up, SOON, "the database is missed")
        await _says_so(node, people, 202)
        limits = deputy._limits
        deputy._limits = replace(limits, max_orders=1)
        await _says_so(node, people, 503, "offline-orders-cap")
        deputy._limits = replace(limits, min_free_bytes=10**15)
        await _says_so(node, people, 503, "offline-disk-floor")
        deputy._limits, deputy._seconds_before = limits, limits.max_hours * 3600 + 1.0
        await _says_so(node, people, 503, "offline-hours-cap")
        deputy._seconds_before = 0.0
        await _says_so(node, people, 202)
        standing: Standing = deputy.standing
        deputy.standing = replace(standing, holds_lease=False)
        await _says_so(node, people, 503, "stand-in-fenced")
        # Another node stands in; there is nothing for the operator to see to.
        assert node.stand_in.report().fenced is None
        deputy.standing = standing
        deputy.foreign = "not the database that this node knows"
        await _says_so(node, people, 503, "stand-in-fenced")
        deputy.foreign = None
        store_node.fence("the disk is full")
        await _says_so(node, people, 503, "stand-in-fenced")


async def test_a_fenced_node_whose_mark_cannot_be_removed_books_nothing(
    migrated_postgres: PostgresServer, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = add_holders(migrated_postgres, 2)
    async with running(migrated_postgres.dsn, directory) as node:
        await node.filled()

        def unremovable(_: Path) -> None:
            raise OSError("read-only")

        monkeypatch.setattr("aiopypay.stand_in.node.distrust", unremovable)
        node.stand_in._node.fence("the disk fails")
        await _says_so(node, people, 503, "stand-in-fenced")
