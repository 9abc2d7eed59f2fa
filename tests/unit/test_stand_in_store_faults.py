"""The stand-in store under kills, loss of power, full disks and files that are gone."""

import errno
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from aiopypay.stand_in import tail
from aiopypay.stand_in.records import Plan
from aiopypay.stand_in.store import Store, StoreFailed, StoreInUse
from tests.unit import stand_in_samples as samples
from tests.unit.stand_in_samples import Files, account, entry, order_id

SEED = int(os.environ.get("AIOPYPAY_SEED", random.SystemRandom().randrange(2**32)))
KILLS = 8
FULL_BYTES = 300_000

# Keeps changing the store and tells of each change once it is acknowledged, until it is killed.
WRITER = """
import sys
from pathlib import Path
from aiopypay.stand_in.records import Plan
from aiopypay.stand_in.store import Store
from tests.unit.stand_in_samples import NOON, account, entry

store = Store.open(Path(sys.argv[1]))
number = int(sys.argv[2])
while True:
    number += 1
    with store.transaction(durable=True):
        store.append([entry(number)])
    print("entry", number, flush=True)
    with store.transaction(durable=True):
        store.write_plan(1, Plan([entry(-number)]))
    print("plan", number, flush=True)
    with store.transaction(durable=False):
        store.withdraw_plans([1])
        store.remember_accounts([account(7, version=number)])
        store.mark_posted([number], NOON)
    print("withdrawn", number, flush=True)
"""


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "stand-in"


def append(store: Store, *numbers: int) -> None:
    with store.transaction(durable=True):
        store.append([entry(number) for number in numbers])


def opened(directory: Path, files: Files) -> Store:
    samples.put_files(directory, files)
    return Store.open(directory)


def damage_of(directory: Path, files: Files) -> str:
    """Opens a store with these files. Returns its damage; they must not change."""
    store = opened(directory, files)
    damage = store.damage
    store.close()
    (directory / "store.sqlite-shm").unlink(missing_ok=True)
    assert samples.files_of(directory) == files
    return damage or ""


def test_a_second_process_is_told_who_has_the_store(directory: Path) -> None:
    store = Store.open(directory)
    with pytest.raises(StoreInUse, match=rf"^{directory} is in use by another aiopypay \(process {os.getpid()}\): "):
        Store.open(directory)
    store.close()
    Store.open(directory).close()


def test_what_was_acknowledged_survives_kills(directory: Path) -> None:
    chance = random.Random(SEED)
    number = 0
    for _ in range(KILLS):
        command = [sys.executable, "-c", WRITER, str(directory), str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout
            told = [writer.stdout.readline().split() for _ in range(chance.randrange(1, 100))]
            writer.kill()
            told += [line.split() for line in writer.stdout if line.endswith("\n")]
        kind, number = told[-1][0], int(told[-1][1])
        store = Store.open(directory)
        assert store.damage is None, f"seed {SEED}"
        assert [found.sequence for found in store.entries(None, 10**6)][:number] == list(range(1, number + 1))
        assert (kind != "plan") or store.plans() in ({1: Plan([entry(-number)])}, {}), f"seed {SEED}"
        assert (kind != "withdrawn") or (store.plans(), store.account(7)) == ({}, account(7, version=number))
        with store.transaction(durable=True):
            store.withdraw_plans([1])
        number = len(store.entries(None, 10**6))
        store.close()


def test_a_log_cut_in_an_unfinished_transaction_is_told(directory: Path) -> None:
    store = Store.open(directory)
    append(store, 1)
    before = samples.files_of(directory)
    append(store, 2, 3)
    after = samples.files_of(directory)
    store.close()
    log = after["store.sqlite-wal"][:-1]
    store = opened(directory, before | {"store.sqlite-wal": log})
    assert store.damage is None
    assert store.dropped
    assert re.fullmatch(r"[0-9]+ pages of a transaction that was never finished were dropped", store.dropped)
    assert [found.sequence for found in store.pending(10)] == [1]
    store.close()


def test_a_group_that_was_synced_but_not_marked_is_kept(directory: Path) -> None:
    store = Store.open(directory)
    append(store, 1)
    before = samples.files_of(directory)
    append(store, 2)
    after = samples.files_of(directory)
    store.close()
    store = opened(directory, after | {"tail": before["tail"]})
    assert store.damage is None
    assert store.pending_count() == 2
    store.close()
    assert damage_of(directory, before | {"tail": samples.files_of(directory)["tail"]})


def test_a_torn_write_of_the_tail_file_costs_nothing(directory: Path) -> None:
    store = Store.open(directory)
    for number in range(2):
        append(store, number)
        before = samples.files_of(directory)
        append(store, number + 10)
        after = samples.files_of(directory)
        old, new = before["tail"], after["tail"]
        changed = [place for place in range(len(new)) if old[place] != new[place]]
        copy = directory.with_name(f"copy {number}")
        for place in changed[::8]:
            again = opened(copy, after | {"tail": new[:place] + old[place:]})
            assert again.damage is None
            assert again.pending_count() == 2 * number + 2
            again.close()
    store.close()


def test_missing_entries_are_named(directory: Path) -> None:
    store = Store.open(directory)
    append(store, 1, 2, 3, 4)
    before = samples.files_of(directory)
    append(store, 5)
    one_more = samples.files_of(directory)
    append(store, 6)
    after = samples.files_of(directory)
    store.close()
    assert "entries 5 to 6, acknowledged, are missing from the journal" in damage_of(
        directory, before | {"tail": after["tail"]}
    )
    assert "entry 6, acknowledged, is missing from the journal" in damage_of(
        directory, one_more | {"tail": after["tail"]}
    )


def test_entries_missing_within_the_journal_are_named(directory: Path) -> None:
    store = Store.open(directory)
    append(store, *range(1, 8))
    store._connection.execute("DELETE FROM journal WHERE sequence IN (2, 4, 5)")
    store._connection.execute("UPDATE journal SET reason = 'changed' WHERE sequence = 7")
    store.close()
    assert damage_of(directory, samples.files_of(directory)).startswith(
        "entry 2, acknowledged, is missing from the journal; "
        "entries 4 to 5, acknowledged, are missing from the journal; entry 7 is damaged"
    )


def test_a_plan_that_is_lost_is_noticed(directory: Path) -> None:
    store = Store.open(directory)
    before = samples.files_of(directory)
    with store.transaction(durable=True):
        store.write_plan(1, Plan([entry(1)]))
    after = samples.files_of(directory)
    store.close()
    assert "acknowledged, are missing from the store" in damage_of(directory, before | {"tail": after["tail"]})


@pytest.mark.parametrize("make", [samples.closed_store, samples.killed_store])
def test_files_that_are_gone_are_noticed(directory: Path, make: type) -> None:
    make(directory)
    files = samples.files_of(directory)
    for name in files:
        rest = {kept: data for kept, data in files.items() if kept != name}
        assert name in damage_of(directory, rest) or name == "store.sqlite-wal"
        assert damage_of(directory, rest)


def test_a_store_of_another_node_is_noticed(directory: Path, tmp_path: Path) -> None:
    samples.closed_store(directory)
    samples.closed_store(tmp_path / "other")
    ours, other = samples.files_of(directory), samples.files_of(tmp_path / "other")
    for name in ours:
        assert damage_of(directory, ours | {name: other[name]})


def test_loss_of_power_costs_only_what_was_never_acknowledged(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever part of the unsynced bytes reached the disk: the log's in order or not, the tail file's or not."""
    chance = random.Random(SEED)
    log = "store.sqlite-wal"
    synced, unsynced, states = _before_loss_of_power(directory)
    kept, written = len(synced[log]), len(unsynced[log])
    assert kept < written
    (tmp_path / "boot_id").write_text(str(uuid4()))
    monkeypatch.setattr(tail, "BOOT_ID", tmp_path / "boot_id")
    seen = set()
    for _ in range(150):
        length = chance.randrange(kept, written + 1)
        torn = chance.randrange(kept, written + 1)
        surviving = unsynced[log][:torn] + bytes(max(0, length - torn))
        marked = chance.choice((synced["tail"], unsynced["tail"]))
        store = opened(directory, unsynced | {log: surviving, "tail": marked})
        assert store.damage is None, f"seed {SEED}"
        found = samples.content(store)
        assert found in states, f"seed {SEED}"
        # Told, where the tail file knows of more; pages that are all zeros are not even known to have been.
        assert store.dropped or found == states[-1] or marked == synced["tail"]
        seen.add(states.index(found))
        store.close()
    assert len(seen) > 1


def _before_loss_of_power(directory: Path) -> tuple[Files, Files, list[dict[str, object]]]:
    """Returns a store's files as they were synced last and as they are, and its contents from then on."""
    store = Store.open(directory)
    samples.fill(store)
    with store.transaction(durable=True):
        store.set_setting("installation", "8")
    synced, states = samples.files_of(directory), [samples.content(store)]
    for version in range(2, 6):
        with store.transaction(durable=False):
            store.withdraw_plans([1])
            store.remember_accounts([account(number, "5.00", version=version) for number in (4, 5)])
        states.append(samples.content(store))
    unsynced = samples.files_of(directory)
    store.close()
    return synced, unsynced, states


def test_without_loss_of_power_nothing_at_all_may_be_missing(directory: Path) -> None:
    synced, unsynced, _ = _before_loss_of_power(directory)
    assert "are missing from the store" in damage_of(directory, synced | {"tail": unsynced["tail"]})


def test_a_directory_half_made_is_made_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The making is killed before each of its system calls that leave a trace."""
    for name in ("open", "fsync", "replace"):
        owner = Path if name == "replace" else os
        for place in range(20):
            directory = tmp_path / f"{name}-{place}"
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, _killed_at(place, getattr(owner, name)))
                try:
                    Store.open(directory).close()
                    made = True
                except Killed:
                    made = False
            store = Store.open(directory)
            assert store.damage is None
            assert store.node_id
            store.close()
            assert {path.name for path in directory.iterdir()} == {"key", "lock", "store.sqlite", "tail"}
            if made:
                break
        assert place >= 2


def _killed_at(place: int, call: object) -> object:
    calls = iter(range(10**6))

    def counted(*arguments: object, **options: object) -> object:
        if next(calls) == place:
            raise Killed
        return call(*arguments, **options)  # type: ignore[operator]

    return counted


def test_after_a_failed_sync_nothing_more_is_written(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(directory)
    append(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", _failing)
        with pytest.raises(StoreFailed, match="Input/output error"):
            append(store, 2)
    for durable in (True, False):
        with pytest.raises(StoreFailed, match="Input/output error"), store.transaction(durable=durable):
            store.set_setting("installation", "7")
    assert store.entry(order_id(1))
    store.close()
    again = Store.open(directory)
    assert again.damage is None
    append(again, 3)
    assert [found.entry.order.id for found in again.pending(9) if found.sequence != 2] == [order_id(1), order_id(3)]
    again.close()


def _failing(_: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_full_disk_costs_nothing_that_was_acknowledged(small_disk: Path) -> None:
    store = Store.open(small_disk / "stand-in")
    acknowledged = _fill_up(store)
    assert acknowledged > 20
    for _ in range(3):
        with pytest.raises(StoreFailed, match="full"):
            append(store, *range(acknowledged, acknowledged + 10))
    assert store.pending_count() == acknowledged
    (small_disk / "ballast").unlink()
    append(store, acknowledged)
    store.close()
    again = Store.open(small_disk / "stand-in")
    assert again.damage is None
    assert again.pending_count() == acknowledged + 1
    again.close()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system with little room, half of it taken by a file called ballast."""
    directory = Path(tempfile.mkdtemp())
    mount = shutil.which("mount")
    size = f"size={4 * FULL_BYTES}"
    if not mount or subprocess.run([mount, "-t", "tmpfs", "-o", size, "tmpfs", str(directory)], check=False).returncode:
        directory.rmdir()
        pytest.skip("needs the right to mount a file system")
    try:
        (directory / "ballast").write_bytes(bytes(2 * FULL_BYTES))
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)  # noqa: S607
        directory.rmdir()


def test_a_limit_on_the_size_of_files_costs_nothing_that_was_acknowledged(directory: Path) -> None:
    store = Store.open(directory)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_BYTES, limits[1]))
    try:
        acknowledged = _fill_up(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert acknowledged > 10
    store.close()
    again = Store.open(directory)
    assert again.damage is None
    assert again.pending_count() >= acknowledged
    assert all(again.entry(order_id(number)) for number in range(acknowledged))
    again.close()


def _fill_up(store: Store) -> int:
    """Appends entries until it fails. Returns how many were acknowledged, numbered from 0."""
    for number in range(10_000):
        try:
            append(store, number)
        except StoreFailed:
            return number
    raise AssertionError("there is room for everything")
