"""Hundreds of random walks through what can go wrong; see `tests.faults.walks.walk`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.walks.walk import Walk, Zygote

SHARDS, WALKS, STEPS = 5, 100, 12
pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    made = Zygote(tmp_path_factory.mktemp("zygote"))
    yield made
    made.close()


def walk(zygote: Zygote, folder: Path, api_url: str, walks: int, start: int | None) -> None:
    """Take a number of walks, the same moves for the same start; the moments differ each time."""
    here = type("Here", (Walk,), {"zygote": zygote, "where": folder, "api_url": api_url})
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
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_whatever_happens_nothing_is_billed_and_no_training_is_harmed(
    shard: int, zygote: Zygote, tmp_path: Path, prefect_server: str
) -> None:
    walk(zygote, tmp_path, prefect_server, WALKS, start=None)


def test_a_few_walks(zygote: Zygote, tmp_path: Path, prefect_server: str) -> None:
    walk(zygote, tmp_path, prefect_server, 2, start=7)
