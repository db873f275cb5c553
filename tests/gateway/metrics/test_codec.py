"""Points as bytes and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metrics.codec import binned, merged, pack, unpack

STEPS = st.lists(st.integers(0, 1 << 53), min_size=1, max_size=60, unique=True).map(sorted)


@given(STEPS, st.data())
def test_steps_are_exact_and_values_have_seven_digits(steps, data):
    numbers = st.floats() | st.integers(-(1 << 53), 1 << 53).map(float)
    values = data.draw(st.lists(numbers, min_size=len(steps), max_size=len(steps)))

    found, back = unpack(pack(np.array(steps, np.int64), np.array([values])))

    assert found.tolist() == steps
    for before, after in zip(values, back[0].tolist(), strict=True):
        if math.isfinite(before):
            assert after == pytest.approx(before, rel=6e-8, abs=0)
            assert after == before or not before.is_integer()
        else:
            assert after == before or (math.isnan(before) and math.isnan(after))


@pytest.mark.parametrize(
    ("values", "width"),
    [
        ([2.5, float("nan"), float("inf"), 3e-5], 4),
        ([float(1 << 24), -7.0], 4),
        ([float((1 << 24) + 1)], 8),
        ([1e40], 8),
        ([1_790_000_000.25], 8),
        ([1e-42], 8),
    ],
)
def test_float32_where_it_holds_the_values(values, width):
    steps = np.arange(len(values), dtype=np.int64)

    blob = pack(steps, np.array([values]))

    assert blob[0] == width
    assert unpack(blob)[1][0] == pytest.approx(values, rel=6e-8, abs=0, nan_ok=True)


def test_bins_have_the_spike_and_pass_over_nan():
    nan = float("nan")
    values = np.array([[1.0, nan, 9.0, nan, nan, 4.0, float("inf")]])

    steps, bins = binned(np.arange(0, 70, 10, dtype=np.int64), values, 3)

    assert steps.tolist() == [0, 30, 60]
    assert bins[:, 0].tolist() == [1.0, 9.0, 5.0]
    assert bins[:, 1].tolist() == [4.0, 4.0, 4.0]
    assert bins[:, 2].tolist() == [math.inf] * 3
    assert all(map(math.isnan, binned(np.array([1]), np.array([[nan]]), 10)[1][:, 0]))


def test_of_a_step_written_twice_the_last_counts():
    first = np.array([1, 2, 3]), np.array([[1.0, 2.0, 3.0]])
    again = np.array([2, 5, 2]), np.array([[20.0, 50.0, 22.0]])

    steps, values = merged([first, again])

    assert steps.tolist() == [1, 2, 3, 5]
    assert values[0].tolist() == [1.0, 22.0, 3.0, 50.0]


@pytest.mark.parametrize("spoil", [b"", b"\x04\x01\x01\x00\x05\x00\x00\x00rubbish"])
def test_damage_is_told(spoil):
    with pytest.raises(ValueError, match="damaged"):
        unpack(spoil)
