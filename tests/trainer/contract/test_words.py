"""Numbers, times and sizes as a person reads them."""

from __future__ import annotations

import math

import pytest

from trainer.contract.words import duration, number, size, time_taken


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
        (0.0, "0"),
        (0.33875123, "0.3388"),
        (8.0345182, "8.035"),
        (-1.25, "-1.25"),
        (4.25684e-08, "4.257e-08"),
        (1234.56, "1,235"),
        (9999.96, "10,000"),
        (98765.4, "98,770"),
        (1.23456e12, "1.235e+12"),
        (430, "430"),
        (1_770_624, "1,770,624"),
    ],
)
def test_numbers_have_four_significant_digits_and_counts_are_whole(value, text):
    assert number(value) == text


def test_more_digits_are_shown_where_they_are_asked_for():
    assert number(1234.5678, 6) == "1,234.57"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "less than a second"),
        (39, "0:39 min"),
        (761, "12:41 min"),
        (3599.7, "1:00:00 h"),
        (12_000, "3:20:00 h"),
    ],
)
def test_times_are_minutes_and_hours(seconds, text):
    assert time_taken(seconds) == text


def test_a_duration_without_unit_is_for_lines_that_change():
    assert (duration(761), duration(None)) == ("12:41", "–")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (2_628_688, "2.629 MB"), (15_310_000_000, "15.31 GB")],
)
def test_sizes_have_a_unit(count, text):
    assert size(count) == text
