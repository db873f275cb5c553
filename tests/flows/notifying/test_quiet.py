"""Quiet hours by the clock on the wall, also on the nights in which it is changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.notifying.quiet import MINUTE, is_quiet, quiet_until
from trainer.config.notifications import QuietHours

ZONES = (
    *("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"),
    # Half an hour of summer time; a clock that is changed at midnight; one behind all the others.
    *("Australia/Lord_Howe", "America/Havana", "Pacific/Kiritimati"),
)


def hours(start: str, end: str, zone: str = "Europe/Berlin") -> QuietHours:
    return QuietHours(start=start, end=end, time_zone=zone)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "end", "at", "until"),
    [
        ("22:00", "07:00", "2026-01-10T21:30", "2026-01-11T06:00"),  # winter: one hour before UTC
        ("22:00", "07:00", "2026-07-10T21:30", "2026-07-11T05:00"),
        ("22:00", "07:00", "2026-01-10T20:59", "2026-01-10T20:59"),  # 21:59 there
        ("22:00", "07:00", "2026-01-10T06:00", "2026-01-10T06:00"),  # 07:00 there
        ("09:00", "17:00", "2026-01-10T08:00", "2026-01-10T16:00"),
        # The clock goes from 02:00 to 03:00: an end at 02:30 is reached with the change.
        ("22:00", "02:30", "2026-03-29T00:30", "2026-03-29T01:00"),
        # It goes from 03:00 back to 02:00: 02:30 comes twice, and it is quiet until 07:00 anyway.
        ("22:00", "07:00", "2026-10-24T22:00", "2026-10-25T06:00"),
    ],
)
def test_it_is_quiet_until_the_clock_there_says_so(start, end, at, until):
    assert quiet_until(hours(start, end), utc(at)) == utc(until)


def test_an_end_that_comes_twice_is_quiet_again_between():
    """When the clock is put back from 03:00, 02:00 to 02:30 comes once more, and is as quiet."""
    night = hours("22:00", "02:30")

    assert not is_quiet(night, utc("2026-10-25T00:30"))  # 02:30, summer time
    assert is_quiet(night, utc("2026-10-25T01:10"))  # 02:10, winter time
    assert quiet_until(night, utc("2026-10-25T01:10")) == utc("2026-10-25T01:30")


clock = st.times().map(lambda time: time.strftime("%H:%M"))


@given(
    start=clock,
    end=clock,
    zone=st.sampled_from(ZONES),
    at=st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001
)
def test_what_waits_goes_out_in_the_first_minute_that_is_not_quiet(start, end, zone, at):
    if start == end:
        return
    quiet, at = hours(start, end, zone), at.replace(tzinfo=UTC)
    until = quiet_until(quiet, at)
    clock_there = until.astimezone(ZoneInfo(zone)).strftime("%H:%M")

    inside = start <= clock_there < end if start < end else not end <= clock_there < start
    assert not inside
    assert at <= until < at + timedelta(hours=25)
    if until > at:
        assert is_quiet(quiet, at)
        assert is_quiet(quiet, until - timedelta(microseconds=1))
        assert all(is_quiet(quiet, at + n * MINUTE) for n in range(int((until - at) / MINUTE)))
