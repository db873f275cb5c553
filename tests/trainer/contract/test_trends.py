"""Spikes and plateaus: found where they are, and not where they are not."""

import math
import random
from types import SimpleNamespace

import pytest

from trainer.contract.trends import Trends


def events(losses: list[float], trends: Trends | None = None, begin: int = 1) -> list[str]:
    """Return kind and step of what is told of a run that logs every step."""
    trends = trends or Trends(logging_steps=1)
    found = []
    for step, loss in enumerate(losses, begin):
        if event := trends.event(step, loss, total_steps=400):
            found.append(f"{event['kind']} {step}")
    return found


def learning(steps: int = 400, noise: float = 0.1, seed: int = 0) -> list[float]:
    """Return the losses of a run that learns to its end, with the noise of small batches."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    return [8 * math.exp(-step / 150) * (1 + draw.gauss(0, noise)) for step in range(steps)]


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_a_run_that_learns_raises_no_event(noise, seed):
    assert events(learning(noise=noise, seed=seed)) == []


def test_a_spike_is_told_once_however_long_it_lasts():
    losses = learning()
    losses[200:206] = [30.0] * 6

    assert events(losses) == ["loss_spike 201"]


def test_a_loss_that_does_not_fall_any_more_is_told():
    losses = learning(200) + [learning(200)[-1]] * 200

    assert [event.split()[0] for event in events(losses)] == ["loss_plateau"]


def test_a_resumed_run_tells_what_an_uninterrupted_one_would():
    losses = learning()
    losses[100] = losses[300] = 30.0
    history = [{"step": step, "loss": loss} for step, loss in enumerate(losses[:250], 1)]
    resumed = Trends(logging_steps=1)
    resumed.resume(SimpleNamespace(log_history=history, max_steps=400))

    assert events(losses) == ["loss_spike 101", "loss_spike 301"]
    assert events(losses[250:], resumed, begin=251) == ["loss_spike 301"]
