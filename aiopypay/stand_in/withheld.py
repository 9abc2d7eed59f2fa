"""Orders that this process must not judge, because the next one may find them on disk and book them."""

import asyncio
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from aiopypay.errors import CommitInDoubt, Problem
from aiopypay.ledger import TransferOrder
from aiopypay.stand_in.node import Node

WITHHELD = "Outcome unknown: the payment may be on a disk of this node that fails. Retry with the same Idempotency-Key."


class Withheld:
    """Judged again, such an order could be refused now, and booked at the next start.

    A write that failed may be on disk nevertheless, a plan whose withdrawal failed certainly is. So these orders are
    answered that nobody knows, until the withdrawal is done, or the service starts anew.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._ids: set[UUID] = set()

    def answers(self, orders: Sequence[TransferOrder]) -> dict[UUID, Problem]:
        """Returns the answers to those of the orders that are withheld, and to those of their groups, by id."""
        if not self._ids:
            return {}
        groups = {order.group for order in orders if order.id in self._ids and order.group is not None}
        return {order.id: CommitInDoubt(WITHHELD) for order in orders if order.id in self._ids or order.group in groups}

    def until(self, withdrawn: "asyncio.Future[Any]", order_ids: Collection[UUID]) -> None:
        """These orders are on disk until that is done; where it fails they stay there."""
        self._ids.update(order_ids)
        withdrawn.add_done_callback(partial(self._release, order_ids))

    def unless(self, kept: "asyncio.Future[Any]", order_ids: Collection[UUID]) -> None:
        """That writes these orders where they are found again. Where it fails they may be on disk all the same."""
        kept.add_done_callback(partial(self._hold, order_ids))

    def hold(self, order_ids: Collection[UUID]) -> None:
        """These orders may be on disk, and stay there."""
        self._ids.update(order_ids)

    def release(self, order_ids: Collection[UUID]) -> None:
        """These orders will not be found at the next start."""
        self._ids.difference_update(order_ids)

    def clear(self) -> None:
        """No order will be found at the next start that this process may not judge."""
        self._ids.clear()

    def _release(self, order_ids: Collection[UUID], withdrawn: "asyncio.Future[Any]") -> None:
        if withdrawn.exception() is None:
            self.release(order_ids)

    def _hold(self, order_ids: Collection[UUID], kept: "asyncio.Future[Any]") -> None:
        if kept.exception() is not None and self._node.is_unsure:
            self._ids.update(order_ids)
