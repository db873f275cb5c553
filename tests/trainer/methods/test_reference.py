"""What dpo's reference says of a pair is asked once, and is not forgotten by a resumed run."""

import json
from typing import Any

import pytest

from tests.trainer.jobs import PausesAfter
from tests.trainer.methods.test_likelihoods import PAIRS
from trainer.contract.job_directory import JobState

pytestmark = pytest.mark.xdist_group("torch")


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """Return how many answers the reference was asked of, call by call."""
    from trl import DPOTrainer

    calls: list[int] = []
    ask = DPOTrainer.compute_ref_log_probs

    def counted(self: Any, model: Any, inputs: Any) -> Any:
        calls.append(len(inputs["input_ids"]))
        return ask(self, model, inputs)

    monkeypatch.setattr(DPOTrainer, "compute_ref_log_probs", counted)
    return calls


@pytest.fixture
def make_dpo(make_job, tmp_path):
    """Return a maker of jobs on four pairs, two a step."""
    rows = tmp_path / "pairs.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))

    def make(name: str, **settings: Any) -> Any:
        few = {"per_device_train_batch_size": 2, "max_steps": 6, "save_steps": 3}
        data = {"path": str(rows)}
        return make_job(tmp_path / name, method="dpo", data=data, **{**few, **settings})

    return make


@pytest.mark.parametrize(
    "peft",
    [{"r": 4}, pytest.param(None, marks=pytest.mark.thorough)],
    ids=["adapters", "all weights"],
)
def test_each_pair_is_asked_of_once_in_three_epochs(make_dpo, asked, peft):
    job = make_dpo("job", peft=peft)

    assert job.train() is JobState.COMPLETED

    assert asked == [4, 4]


@pytest.mark.thorough
def test_a_resumed_run_knows_what_was_said(make_dpo, asked):
    undisturbed, job = make_dpo("undisturbed"), make_dpo("job")
    assert undisturbed.train() is JobState.COMPLETED
    asked.clear()

    assert job.train(PausesAfter(job.directory, 3)) is JobState.PAUSED
    job.directory.control.unlink()
    assert job.train() is JobState.COMPLETED

    assert asked == [4, 4]
    losses = [
        [one.metrics[step]["train_loss"] for step in range(1, 7)] for one in (job, undisturbed)
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "settings",
    [
        {"max_steps": 2},
        pytest.param(
            {"peft": None, "arguments": {"sync_ref_model": True, "ref_model_sync_steps": 1}},
            marks=pytest.mark.thorough,
        ),
    ],
    ids=["one epoch", "a reference that changes"],
)
def test_nothing_is_kept_that_is_of_no_use_or_no_longer_true(make_dpo, asked, settings):
    job = make_dpo("job", **settings)

    assert job.train() is JobState.COMPLETED

    assert asked == []
