"""The writer without the database: what nobody has foreseen of one order is not the others' trouble."""

import asyncio
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from aiopypay.database import Database
from aiopypay.errors import AccessChanged, InternalError, Problem, StandInFenced
from aiopypay.group_commit import GroupCommit
from aiopypay.ledger import TransferOrder
from aiopypay.settings import OfflineSettings
from aiopypay.stand_in.acceptance import Answer
from aiopypay.stand_in.deputy import Deputy
from aiopypay.stand_in.mode import ModeSwitch
from aiopypay.stand_in.moments import Moments
from aiopypay.stand_in.node import Node
from aiopypay.units import Authority, Unit

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


async def test_a_caller_that_changed_while_their_order_waited_is_kept_out_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, switch = Node(tmp_path / "stand-in"), ModeSwitch()
    deputy = Deputy(node, switch, Moments(node, switch), OfflineSettings())
    accepted: list[int] = []
    asked: list[str] = []

    async def accept(orders: Sequence[TransferOrder]) -> list[Answer]:
        accepted.extend(order.id.int for order in orders)
        return [StandInFenced(str(order.id.int)) for order in orders]

    def authority(name: str, waited_seconds: float, holds: bool | Problem) -> Authority:
        async def look() -> bool:
            asked.append(name)
            if isinstance(holds, Problem):
                raise holds
            return holds

        return Authority(time.monotonic() - waited_seconds, look)

    monkeypatch.setattr(deputy, "accept", accept)
    switch.lost("gone")
    lock = asyncio.Lock()
    writer = GroupCommit(Database(NOWHERE, connections=1), deputy, lock)
    callers = [
        authority("just judged", 0, False),
        authority("still the same", 60, True),
        authority("changed", 60, False),
        authority("not known", 60, StandInFenced("nobody knows")),
    ]
    async with lock:
        # All wait for one batch.
        posting = [asyncio.create_task(writer.post(order(number), caller)) for number, caller in enumerate(callers)]
        await asyncio.sleep(0)
    answers = await asyncio.gather(*posting, return_exceptions=True)
    assert asked == ["still the same", "changed", "not known"]
    assert [str(answer) for answer in answers[:2]] == ["0", "1"]
    assert isinstance(answers[2], AccessChanged)
    assert str(answers[3]) == "nobody knows"
    assert accepted == [0, 1]
    # Of a bulk that is judged in parts the first may be booked: it must not begin anew.
    bulk = Unit([order(5), order(6)], authority=authority("changed", 60, False))
    first, rest = bulk.cut(1) or (bulk, bulk)
    assert isinstance((await asyncio.gather(writer.post_all(first), return_exceptions=True))[0], AccessChanged)
    assert [type(answer) for answer in await writer.post_all(rest)] == [AccessChanged]
    assert accepted == [0, 1]
    await node.close()
