"""The sentence that says how far a job is saved."""

from __future__ import annotations

from uuid import uuid4

import pytest

from flows.run_folder import RunFolder
from flows.saved import as_sentence, saved


@pytest.mark.parametrize(
    ("step", "total", "reached", "sentence"),
    [
        (441, 500, 441, "saved at step 441 of 500"),
        (7, 0, 7, "saved at step 7"),
        (0, 0, 0, "before the first step"),
        (0, 500, 0, "before the first step"),
        (0, 500, 3, "nothing was saved by step 3"),
    ],
)
def test_it_never_says_step_0_of_0(step, total, reached, sentence):
    assert as_sentence(step, total, reached) == sentence


def test_it_goes_by_the_newest_checkpoint_at_home():
    run = RunFolder(uuid4())
    assert saved(run) == "before the first step"
    for step in (9, 10):
        (run.checkpoints / f"checkpoint-{step}").mkdir(parents=True)
    (run.checkpoints / ".checkpoint-11").mkdir()
    run.metrics.write_text('{"step": 12, "total_steps": 20}\n')

    assert saved(run) == "saved at step 10 of 20"
