"""The ticks of an axis are numbers that a person would choose."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flows.streaming.axes import FEW, NONE, of_steps, of_values, visible

VALUES = st.floats(-1e100, 1e100, allow_nan=False)


def parsed(label: str) -> float:
    return float(label.replace(",", ""))


def is_round(distance: float) -> bool:
    mantissa = float(f"{distance:.6e}".partition("e")[0])
    return mantissa in {1.0, 2.0, 5.0}


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.2554, 8.2113, ["0", "2", "4", "6", "8", "10"]),
        (-1.3, 0.4, ["-1.5", "-1.0", "-0.5", "0.0", "0.5"]),
        (0.0, 0.00013, ["0.00000", "0.00005", "0.00010", "0.00015"]),
        (2e-9, 9e-9, ["2e-9", "4e-9", "6e-9", "8e-9", "1e-8"]),
        (0, 7_000_000, ["0", "2e6", "4e6", "6e6", "8e6"]),
        (1500, 2300, ["1,400", "1,600", "1,800", "2,000", "2,200", "2,400"]),
        (2.5, 2.5, ["2.2", "2.3", "2.4", "2.5", "2.6", "2.7", "2.8"]),
        (0, 0, ["-0.6", "-0.4", "-0.2", "0.0", "0.2", "0.4", "0.6"]),
    ],
)
def test_values_have_round_ticks(low: float, high: float, labels: list[str]):
    assert [label for _, label in of_values(low, high).ticks] == labels


@pytest.mark.parametrize(
    ("first", "last", "labels"),
    [
        (1, 430, ["0", "100", "200", "300", "400"]),
        (0, 1, ["0", "1"]),
        (3, 3, ["3", "4"]),
        (1, 8, ["1", "2", "3", "4", "5", "6", "7", "8"]),
        (0, 1_000_000, ["0", "200,000", "400,000", "600,000", "800,000", "1,000,000"]),
        (5_003, 5_090, ["5,000", "5,020", "5,040", "5,060", "5,080"]),
    ],
)
def test_steps_have_round_whole_ticks(first: int, last: int, labels: list[str]):
    assert [label for _, label in of_steps([first, last]).ticks] == labels


@given(VALUES, VALUES)
def test_ticks_of_any_values_are_round_distinct_and_hold_them(one: float, other: float):
    low, high = sorted((one, other))

    axis = of_values(low, high)

    values = [value for value, _ in axis.ticks]
    slack = 1e-12 * max(abs(low), abs(high)) + NONE
    assert axis.low <= low + slack
    assert high - slack <= axis.high
    assert 3 <= len(values) <= 9
    labels = [label for _, label in axis.ticks]
    assert len(set(labels)) == len(labels)
    assert all(
        math.isclose(parsed(label), value, rel_tol=1e-9, abs_tol=1e-9 * (values[1] - values[0]))
        for value, label in axis.ticks
    )
    if max(map(abs, values)) < 1e6 * (values[1] - values[0]):
        assert is_round(values[1] - values[0])
    assert not any(re.search("e[-+]0", label) for label in labels)


@given(st.integers(0, 1 << 53), st.integers(0, 1 << 53))
def test_ticks_of_any_steps_are_whole_and_within_them(one: int, other: int):
    first, last = sorted((one, other))

    axis = of_steps([first, last])

    values = [value for value, _ in axis.ticks]
    assert all(value == int(value) for value in values)
    assert axis.low <= first
    assert axis.high >= last
    assert all(axis.low <= value <= axis.high for value in values)
    assert 1 <= len(values) <= 10


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_a_share_is_between_0_and_1_and_grows_with_the_value(one: float, other: float):
    axis = of_values(-500, 500)
    low, high = sorted((one, other))
    assume(low < high)

    assert 0 <= axis.share(low) <= axis.share(high) <= 1


def test_a_spike_is_beyond_the_range_and_a_usual_fall_is_not():
    noisy = [2 + 0.1 * math.sin(step) for step in range(400)]
    falling = [8 / (1 + step / 20) for step in range(400)]

    assert visible([*noisy, 1e6])[1] < 3
    assert visible([*noisy, -1e6])[0] > 1
    assert visible(falling) == (min(falling), max(falling))


def test_of_few_values_none_is_a_spike():
    values = [1.0] * (FEW - 2) + [1e6]

    assert visible(values) == (1.0, 1e6)
    assert visible([]) == (0.0, 1.0)
