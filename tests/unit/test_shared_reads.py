"""Reads that share a statement: what one of them meets is not the others' trouble."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from aiopypay.database import Database
from aiopypay.errors import NotKnownHere, StandInFenced
from aiopypay.shared_reads import SharedReads
from aiopypay.statements import Connection

# Nobody listens there.
NOWHERE = "host=127.0.0.1 port=1 dbname=nowhere"


async def read(keys: Sequence[int], failures: Mapping[int, Exception]) -> tuple[list[object], list[list[int]]]:
    """What the readers of these keys get without the database, and which keys were looked up together."""
    asked: list[list[int]] = []

    async def online(_connection: Connection, _keys: Sequence[int]) -> Mapping[int, str]:
        raise AssertionError("the database is away")

    async def offline(keys: Sequence[int]) -> Mapping[int, str | Exception | None]:
        asked.append(sorted(keys))
        for key in keys:
            if key in failures:
                raise failures[key]
        return {key: f"row {key}" for key in keys}

    reads: SharedReads[int, str] = SharedReads(Database(NOWHERE, connections=1), online, offline)
    return await asyncio.gather(*(reads.get(key) for key in keys), return_exceptions=True), asked


async def test_one_that_fails_fails_alone() -> None:
    found, _ = await read(range(5), {3: KeyError("XTS")})
    assert [row for row in found if not isinstance(row, Exception)] == ["row 0", "row 1", "row 2", "row 4"]
    assert isinstance(found[3], KeyError)


@pytest.mark.parametrize("failure", [StandInFenced("the disk is full"), NotKnownHere("nothing is known")])
async def test_what_all_meet_is_asked_once(failure: Exception) -> None:
    found, asked = await read(range(5), {1: failure})
    assert [type(row) for row in found] == [type(failure)] * 5
    assert asked == [[0, 1, 2, 3, 4]]
