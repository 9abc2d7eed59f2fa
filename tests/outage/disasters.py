"""Faults that the operator has a part in: a disk of the node that hangs, a backup that is restored under load.

They take the course of rounds, and are switched on by `NOT_YET` in `rounds.py`.
"""

import asyncio
import random

from .rounds import NOT_YET, Fault, Rounds
from .waiting import eventually

HUNG_SECONDS = (0.3, 4.0)
LATER_PAYMENTS, PAID_SECONDS = 60, 20
# What runs the service on a disk whose syncs hang while the file, its argument, is there.
ON_A_STUCK_DISK = ("-m", "tests.outage.stuck")
HUNG_DISK, RESTORE = "hung disk", "restore and replay"


def disasters(course: Rounds) -> list[Fault]:
    """Those of them that the product can take."""
    faults: list[Fault] = []
    if HUNG_DISK not in NOT_YET:
        course.command = (*ON_A_STUCK_DISK, str(course.hung))
        faults += [_hang_disk(course), _hang_disk_as_the_database_goes(course)]
    if RESTORE not in NOT_YET:
        faults.append(_restore_and_replay(course))
    return faults


def _hang_disk(course: Rounds) -> Fault:
    async def hang_the_nodes_disk(generator: random.Random) -> None:
        await _hang(course, generator)

    return hang_the_nodes_disk


def _hang_disk_as_the_database_goes(course: Rounds) -> Fault:
    async def hang_the_nodes_disk_as_the_database_goes(generator: random.Random) -> None:
        hanging = asyncio.create_task(_hang(course, generator))
        await asyncio.sleep(generator.uniform(0, 1))
        await asyncio.to_thread(course.postgres.stop, "immediate")
        await asyncio.sleep(generator.uniform(0, 2))
        await asyncio.to_thread(course.postgres.start)
        await hanging

    return hang_the_nodes_disk_as_the_database_goes


async def _hang(course: Rounds, generator: random.Random) -> None:
    try:
        course.hung.touch()
        await asyncio.sleep(generator.uniform(*HUNG_SECONDS))
    finally:
        course.hung.unlink()


def _restore_and_replay(course: Rounds) -> Fault:
    """An older moment of the database is put in its place. Nothing is told or accepted until its operator has what was
    acknowledged since booked again; afterwards all of it is booked, once.
    """

    async def restore_a_backup_and_replay(generator: random.Random) -> None:
        # What the operator did in SQL since, nobody can bring back.
        async with course.operator.paused():
            snapshot = await asyncio.to_thread(course.postgres.snapshot)
            await course.service.wait_mode("online")
            await _paid(course, 200, LATER_PAYMENTS)
            if generator.random() < 0.5:
                await asyncio.to_thread(course.postgres.stop, "immediate")
                await _paid(course, 202, generator.randint(1, LATER_PAYMENTS))
            await asyncio.to_thread(course.postgres.restore, snapshot)
            await course.service.wait_health(
                lambda health: health["status"] == "attention", "an older moment of the database is noticed"
            )
            if generator.random() < 0.5:
                course.service.kill()
                await course.start_service()
            await course.service.operate("journal", "replay")
            await course.service.wait_mode("online")
            course.note_replay()

    return restore_a_backup_and_replay


async def _paid(course: Rounds, status: int, times: int) -> None:
    assert course.load is not None
    load, before = course.load, course.load.answered(status)
    await eventually(lambda: load.answered(status) >= before + times, PAID_SECONDS, f"payments answered {status}")
