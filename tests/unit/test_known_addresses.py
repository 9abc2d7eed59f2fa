"""From where users have logged in: who is known, for how long, and what of it survives a restart."""

from pathlib import Path

import pytest

from aiopypay import known_addresses
from aiopypay.known_addresses import (
    ADDRESSES_OF_USER_MAX,
    KNOWN_DAYS,
    KnownAddresses,
    encoded,
    kept_addresses,
)
from aiopypay.newest import Newest
from tests.outage.waiting import eventually

DAY_SECONDS = 86_400


class Clock:
    """The wall clock, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(known_addresses, "time", clock)
    return clock


def reread(known: KnownAddresses) -> KnownAddresses:
    return KnownAddresses(encoded(*known.snapshot()))


def test_a_user_is_known_where_they_logged_in_and_nowhere_else() -> None:
    known = KnownAddresses()
    known.note("Vasya", "192.0.2.1")
    for read in (known, reread(known)):
        assert read.knows("vasya", "192.0.2.1")
        assert not read.knows("vasya", "192.0.2.2")
        assert not read.knows("frosya", "192.0.2.1")


def test_for_thirty_days_from_the_last_login(clock: Clock) -> None:
    known = KnownAddresses()
    known.note("vasya", "192.0.2.1")
    clock.now += 20 * DAY_SECONDS
    known.note("vasya", "192.0.2.1")
    clock.now += KNOWN_DAYS * DAY_SECONDS
    assert known.knows("vasya", "192.0.2.1")
    clock.now += DAY_SECONDS
    assert not known.knows("vasya", "192.0.2.1")
    assert not reread(known).snapshot()[1], "nothing of them is kept"


def test_a_login_of_the_same_day_changes_nothing() -> None:
    known = KnownAddresses()
    known.note("vasya", "192.0.2.1")
    known.is_changed = False
    known.note("vasya", "192.0.2.1")
    assert not known.is_changed
    known.note("vasya", "192.0.2.2")
    assert known.is_changed


def test_a_user_has_the_newest_few_addresses() -> None:
    known = KnownAddresses()
    for number in range(1_000):
        known.note("vasya", f"192.0.2.{number}")
    assert not known.knows("vasya", "192.0.2.0")
    newest = [known.knows("vasya", f"192.0.2.{number}") for number in range(1_000 - ADDRESSES_OF_USER_MAX, 1_000)]
    assert newest == [True] * ADDRESSES_OF_USER_MAX
    assert len(encoded(*known.snapshot())) < 250


def test_the_users_who_logged_in_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_addresses, "USERS_MAX", 3)
    known = KnownAddresses()
    for name in ("a", "b", "c", "a", "d"):
        known.note(name, "192.0.2.1")
    assert [name for name in "abcd" if known.knows(name, "192.0.2.1")] == ["a", "c", "d"]


@pytest.mark.parametrize("spoil", [lambda content: b"", lambda content: content[:-1], lambda content: content + b"x"])
def test_a_damaged_file_is_told(spoil: "type[bytes]") -> None:
    known = KnownAddresses()
    known.note("vasya", "192.0.2.1")
    with pytest.raises(ValueError, match="damaged"):
        KnownAddresses(spoil(encoded(*known.snapshot())))


def test_no_name_and_no_address_is_in_it() -> None:
    known = KnownAddresses()
    known.note("vasya", "192.0.2.1")
    content = encoded(*known.snapshot())
    assert b"vasya" not in content
    assert b"192.0.2.1" not in content


async def test_it_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "known-addresses"
    async with kept_addresses(path) as known:
        known.note("vasya", "192.0.2.1")
    assert path.stat().st_mode & 0o777 == 0o600
    async with kept_addresses(path) as known:
        assert known.knows("vasya", "192.0.2.1")


async def test_it_is_written_while_the_service_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_addresses, "SAVE_SECONDS", 0.01)
    path = tmp_path / "known-addresses"
    async with kept_addresses(path) as known:
        known.note("vasya", "192.0.2.1")
        await eventually(path.exists, 10, "it is written")
    assert KnownAddresses(path.read_bytes()).knows("vasya", "192.0.2.1")


async def test_what_cannot_be_read_or_written_is_told_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "known-addresses"
    path.write_bytes(b"nonsense")
    async with kept_addresses(path) as known:
        assert not known.knows("vasya", "192.0.2.1")
        known.note("vasya", "192.0.2.1")
        path.unlink()
        path.mkdir()
    messages = [record.getMessage() for record in caplog.records]
    assert ["is not used" in messages[0], "was not written" in messages[1]] == [True, True]


def test_of_many_keys_the_newest_are_kept() -> None:
    newest: Newest[str, int] = Newest(2)
    for key in ("a", "b", "a", "c"):
        newest.set(key, 1)
    newest.remove("nobody")
    assert [newest.get(key) for key in "abc"] == [1, None, 1]
    assert len(newest) == 2
