"""Remembering what was read from the database, only where it cannot be counted twice."""

import asyncio
from collections.abc import Callable
from typing import Concatenate, ParamSpec

from aiopypay.errors import DiskHangs
from aiopypay.stand_in.mode import ModeSwitch
from aiopypay.stand_in.node import Node
from aiopypay.stand_in.store import Store

P = ParamSpec("P")


class Reads:
    """Takes rows that were read beside the writer into the node's memory.

    Such a read may show a batch whose answer is still awaited. Were the batch then in doubt, the journal would add its
    changes to balances that hold them already. So rows are handed over under the writer's lock, when no batch runs;
    and not at all once the database was lost since the read began: from then on the journal knows better.
    """

    def __init__(self, node: Node, switch: ModeSwitch, writers_lock: asyncio.Lock) -> None:
        self._node = node
        self._switch = switch
        self._lock = writers_lock

    async def remember(
        self, epoch: int, work: Callable[Concatenate[Store, P], None], *args: P.args, **kwargs: P.kwargs
    ) -> bool:
        """Hands over what was read in `epoch` (the switch's when the read began); tells whether it is remembered.

        Raises DiskHangs: what waits for a disk that hangs is not to grow.
        The store works in the order of handing over, so the lock is not held while it does.
        """
        async with self._lock:
            if self._node.disk.hangs:
                raise DiskHangs
            fresh = self._switch.is_up and epoch == self._switch.epoch
            if fresh:
                self._node.post(work, *args, **kwargs)
        return fresh
