"""When a job of a batch is tried again."""

from __future__ import annotations

import pytest

from flows.batches.retries import Retries
from trainer.contract.errors import (
    CapacityError,
    ConfigError,
    DataError,
    HostKeyChanged,
    MachineLost,
    OrchestratorError,
    OutOfMemory,
    ProviderError,
    TrainingFailed,
)


@pytest.mark.parametrize(
    ("errors", "error", "again"),
    [
        ([], MachineLost, True),  # what may pass by itself
        ([], CapacityError, True),
        ([], OutOfMemory, True),
        ([], TrainingFailed, False),
        ([], DataError, False),
        (["OutOfMemory"], OutOfMemory, True),
        (["OutOfMemory"], MachineLost, False),
        (["MachineLost"], HostKeyChanged, True),  # of that kind
        (["ProviderError"], CapacityError, True),
        (["CapacityError"], ProviderError, False),
        (["OrchestratorError"], ConfigError, True),
    ],
)
def test_the_kind_of_error_decides(errors: list[str], error: type[OrchestratorError], again: bool):
    seconds = Retries(errors=errors).seconds_until(error("x"), 0)

    assert (seconds is not None) is again


def test_it_waits_twice_as_long_each_time_an_hour_at_most_and_stops():
    retries = Retries(max=40, backoff_seconds=60)
    waits = [retries.seconds_until(MachineLost("x"), tried) for tried in range(41)]

    assert waits[:4] == [60, 120, 240, 480]
    assert set(waits[6:40]) == {3600}
    assert waits[40] is None


@pytest.mark.parametrize("label", [None, "", 5, "{", '{"max": -1}', "[]", '{"colour": "red"}'])
def test_a_label_that_says_nothing_means_no_retries(label: object):
    assert Retries.of_label(label) is None
    assert Retries.of_label(Retries(max=5).as_label()) == Retries(max=5)
