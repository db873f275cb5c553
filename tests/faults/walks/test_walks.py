"""Hundreds of random walks through what can go wrong; see `tests.faults.walks.walk`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.walks.accounts import ACCOUNTS
from tests.faults.walks.walk import Walk, Zygote

WALKS, STEPS = 100, 12
pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    made = Zygote(tmp_path_factory.mktemp("zygote"))
    yield made
    made.close()


def walk(provider: str, walks: int, start: int | None, **place: Any) -> None:
    """Take a number of walks, the same moves for the same start; the moments differ each time."""
    here = type("Here", (Walk,), {"provider": provider, **place})
    # Not shrunk: what happens depends on the moment, so a shorter walk is another walk.
    quiet = settings(
        max_examples=walks,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(here if start is None else seed(start)(here), settings=quiet)
    assert here.trained >= walks / 4


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("provider", ACCOUNTS)
def test_whatever_happens_nothing_is_billed_and_no_training_is_harmed(
    provider: str, zygote: Zygote, tmp_path: Path, prefect_server: str
) -> None:
    walks = int(os.environ.get("WALKS", WALKS))
    walk(provider, walks, None, zygote=zygote, where=tmp_path, api_url=prefect_server)


def test_a_few_walks(zygote: Zygote, tmp_path: Path, prefect_server: str) -> None:
    walk("runpod", 2, 7, zygote=zygote, where=tmp_path, api_url=prefect_server)
