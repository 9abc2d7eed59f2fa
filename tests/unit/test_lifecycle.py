"""The end of what runs beside the requests."""

import asyncio
import contextlib

from aiopypay.stand_in import lifecycle


async def test_a_cancellation_that_is_lost_is_repeated() -> None:
    async def deaf_once() -> None:
        # As asyncio.wait_for of Python 3.11 does, where a result and a cancellation arrive together.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(3600)

    task = asyncio.create_task(deaf_once())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await lifecycle._ended([task])
    assert task.cancelled()


async def test_nothing_to_end_ends_at_once() -> None:
    await lifecycle._ended([])
