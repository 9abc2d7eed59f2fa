"""Invariant 8: each flipped bit and each cut is detected, or changes nothing.

By default a choice of the bytes of small stores is hit, at a random bit; with AIOPYPAY_ALL_BITS=1 all are, at each bit.
"""

import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiopypay.stand_in import opening
from aiopypay.stand_in.store import Store
from tests.unit import stand_in_samples as samples
from tests.unit.stand_in_samples import Files

ALL_BITS = bool(os.environ.get("AIOPYPAY_ALL_BITS"))
SEED = int(os.environ.get("AIOPYPAY_SEED", random.SystemRandom().randrange(2**32)))
# So many bytes, and the first ones of each file, are hit unless all are.
CHOSEN = 300
HEADER_BYTES = 100
# The smallest that SQLite has: all kinds of pages in few bytes.
SMALL_PAGE_BYTES = 512
MAKERS = {"closed": samples.closed_store, "killed": samples.killed_store}


@pytest.fixture(params=MAKERS)
def files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """The files of a small store with something in each table, closed or killed."""
    monkeypatch.setattr(opening, "PAGE_BYTES", SMALL_PAGE_BYTES)
    MAKERS[request.param](tmp_path / "original")
    return samples.files_of(tmp_path / "original")


def opened_content(directory: Path, files: Files) -> tuple[dict[str, object] | None, str | None]:
    """Opens a store with these files. Returns its content unless it is damaged, and its damage."""
    samples.put_files(directory, files)
    store = Store.open(directory)
    try:
        return (None if store.damage else samples.content(store)), store.damage
    finally:
        store.close()


def places(files: Files) -> Iterator[tuple[str, int]]:
    """Bytes of the files: the first ones of each, which say most, and a choice of the others; or all."""
    everywhere = [(name, place) for name, data in sorted(files.items()) for place in range(len(data))]
    chosen = set(random.Random(SEED).sample(everywhere, CHOSEN))
    yield from (where for where in everywhere if ALL_BITS or where[1] < HEADER_BYTES or where in chosen)


def flips(files: Files) -> Iterator[tuple[str, Files]]:
    chance = random.Random(SEED)
    for name, place in places(files):
        for bit in range(8) if ALL_BITS else [chance.randrange(8)]:
            flipped = bytearray(files[name])
            flipped[place] ^= 1 << bit
            yield f"seed {SEED}: bit {bit} of byte {place} of {name}", files | {name: bytes(flipped)}


def cuts(files: Files) -> Iterator[tuple[str, Files]]:
    for name, length in places(files):
        yield f"seed {SEED}: {name} cut to {length} bytes", files | {name: files[name][:length]}


@pytest.fixture
def copy() -> Iterator[Path]:
    """A directory in memory, where there is one: thousands of stores are opened in it."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        yield Path(directory)


@pytest.mark.parametrize("damages", [flips, cuts])
def test_each_damage_is_detected_or_changes_nothing(
    files: Files, damages: Callable[[Files], Iterator[tuple[str, Files]]], copy: Path
) -> None:
    print(f"seed {SEED}")  # noqa: T201
    original, damage = opened_content(copy, files)
    assert damage is None
    counts = {"detected": 0, "changed nothing": 0}
    for what, damaged_files in damages(files):
        found, damage = opened_content(copy, damaged_files)
        assert damage or found == original, what
        counts["detected" if damage else "changed nothing"] += 1
    print(counts)  # noqa: T201
