"""Which errors leave open how a job ends."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from flows.outcome import is_undecided
from trainer.contract.errors import ConfigError, StoreAway, StoreError


@pytest.mark.parametrize(
    ("error", "trains", "undecided"),
    [
        (StoreAway("busy"), False, True),
        (StoreError("no right"), True, True),
        (StoreError("no right"), False, False),
        (ConfigError("wrong"), True, False),
    ],
    ids=["away", "refused while it trains", "refused before", "a wrong job"],
)
def test_a_store_ends_no_training(error, trains, undecided):
    hire = SimpleNamespace(is_open=trains, workspace="there" if trains else "")

    assert is_undecided(error, SimpleNamespace(hires=[hire])) is undecided
