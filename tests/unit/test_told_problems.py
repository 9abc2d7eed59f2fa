"""Problems as they are told: a read hears nothing of bookings, and Retry-After says something true."""

import copy
import time

import pytest

from aiopypay.errors import (
    CommitInDoubt,
    DatabaseBusy,
    DatabaseUnavailable,
    DiskHangs,
    NotKnownHere,
    OfflineHoursCap,
    OtherMoment,
    Overloaded,
    Problem,
    StandInFenced,
)
from aiopypay.stand_in.mode import RETRY_SECONDS_MAX, ModeSwitch
from aiopypay.translation import IN_DOUBT_DETAIL, UNAVAILABLE_DETAIL


@pytest.mark.parametrize(
    "problem",
    [
        DatabaseUnavailable(UNAVAILABLE_DETAIL),
        CommitInDoubt(IN_DOUBT_DETAIL),
        OtherMoment(3),
        DatabaseBusy(),
        DiskHangs(),
        OfflineHoursCap("The database has been away for over 24 hours."),
    ],
)
def test_a_read_hears_that_it_cannot_be_answered_and_no_more(problem: Problem) -> None:
    told = problem.for_readers()
    assert told.status == 503
    assert "booked" not in told.detail
    assert "Key" not in told.detail
    assert told.slug != "commit-in-doubt"


@pytest.mark.parametrize("problem", [NotKnownHere("not known"), StandInFenced("fenced")])
def test_what_holds_for_reads_is_told_as_it_is(problem: Problem) -> None:
    assert problem.for_readers() is problem


def test_copies_of_problems_keep_their_time() -> None:
    assert copy.copy(Overloaded("full", 7)).retry_after_seconds == 7


class TestModes:
    @pytest.fixture
    def switch(self, monkeypatch: pytest.MonkeyPatch) -> ModeSwitch:
        """The database is lost; the clock stands still."""
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        switch = ModeSwitch()
        switch.lost("gone")
        return switch

    def test_online_a_second(self) -> None:
        assert ModeSwitch().retry_after_seconds == 1

    @pytest.mark.parametrize(("away", "seconds"), [(0, 1), (100, 10), (86_400, RETRY_SECONDS_MAX)])
    def test_the_longer_it_is_away_the_later(self, switch: ModeSwitch, away: int, seconds: int) -> None:
        self.now += away
        assert switch.retry_after_seconds == seconds

    def test_while_settling_as_long_as_that_is_likely_to_take(self, switch: ModeSwitch) -> None:
        self.now += 5000
        switch.settling()
        assert switch.retry_after_seconds == RETRY_SECONDS_MAX
        switch.settles_in_seconds = 4.2
        assert switch.retry_after_seconds == 4
        switch.online()
        assert switch.retry_after_seconds == 1
