"""The writer without the database: what nobody has foreseen of one order is not the others' trouble."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from aiopypay.database import Database
from aiopypay.errors import InternalError, Problem, StandInFenced
from aiopypay.group_commit import GroupCommit
from aiopypay.ledger import TransferOrder
from aiopypay.settings import OfflineSettings
from aiopypay.stand_in.acceptance import Answer
from aiopypay.stand_in.deputy import Deputy
from aiopypay.stand_in.mode import ModeSwitch
from aiopypay.stand_in.moments import Moments
from aiopypay.stand_in.node import Node
from aiopypay.units import Unit

NOWHERE = "host=127.0.0.1 port=1 dbname=nowhere"


def order(number: int, group: int | None = None) -> TransferOrder:
    return TransferOrder(
        UUID(int=number), 2, 7, 8, Decimal(1), None, b"", group=None if group is None else UUID(int=group)
    )


async def test_one_order_that_cannot_be_judged_fails_alone_or_with_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, switch = Node(tmp_path / "stand-in"), ModeSwitch()
    deputy = Deputy(node, switch, Moments(node, switch), OfflineSettings())

    async def accept(orders: Sequence[TransferOrder]) -> list[Answer]:
        if any(order.id.int in (3, 6) for order in orders):
            raise ValueError("it makes no sense")
        return [StandInFenced(str(order.id.int)) for order in orders]

    monkeypatch.setattr(deputy, "accept", accept)
    switch.lost("gone")
    writer = GroupCommit(Database(NOWHERE, connections=1), deputy, asyncio.Lock())
    orders = [*map(order, range(1, 6)), order(6, 1), order(7, 1), order(8)]
    answers = await writer.post_all(Unit(orders))
    failed = [one.id.int for one, answer in zip(orders, answers, strict=True) if isinstance(answer, InternalError)]
    assert failed == [3, 6, 7]
    answered = [answer for answer in answers if isinstance(answer, Problem) and not isinstance(answer, InternalError)]
    assert [answer.detail for answer in answered] == ["1", "2", "4", "5", "8"]
    await node.close()
