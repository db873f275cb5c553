"""Where a training goes on, and by how many examples a step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trainer.contract.parts import parts_of
from tests.trainer.jobs import flip_a_byte
from trainer.config import TrainingConfig
from trainer.contract.errors import Action, CheckpointDamaged
from trainer.contract.job_directory import JobDirectory
from trainer.contract.world import Rank
from trainer.training import resuming
from trainer.training.resuming import resume_point, with_same_batch

SECOND = Rank(rank=2, world_size=4, local_rank=0, local_world_size=2)


@pytest.fixture
def second(tmp_path, monkeypatch) -> JobDirectory:
    """The second of two machines; the first goes on from its checkpoint-5."""
    first, _ = parts_of(tmp_path)
    monkeypatch.setattr(resuming, "of_first", lambda _: first)
    monkeypatch.setattr(resuming, "own_rank", lambda: SECOND)
    directory = JobDirectory(tmp_path / "1")
    directory.job.write_text(json.dumps({"resume": "checkpoint-5"}))
    return directory


def test_a_machine_goes_on_from_its_own_part(second):
    assert resume_point(second) == second.checkpoints / "checkpoint-5"


@pytest.mark.parametrize("fault", ["damaged", "gone", "of the other", "not the one that was meant"])
def test_a_machine_that_lacks_what_all_go_on_from_says_so(second, tmp_path, fault):
    here = second.checkpoints / "checkpoint-5"
    match fault:
        case "damaged":
            flip_a_byte(here / "shards/__3_0.distcp")
        case "gone":
            here.rename(tmp_path / "elsewhere")
        case "of the other":
            here.rename(tmp_path / "elsewhere")
            (tmp_path / "0/checkpoints/checkpoint-5").rename(here)
        case _:
            second.job.write_text(json.dumps({"resume": "checkpoint-6"}))

    with pytest.raises(CheckpointDamaged) as caught:
        resume_point(second)

    assert caught.value.action is Action.RETRY  # it is brought there anew


def config(device: int, accumulated: int, **settings) -> TrainingConfig:
    sizes = {
        "per_device_train_batch_size": device,
        "gradient_accumulation_steps": accumulated,
    }
    return TrainingConfig.model_validate({"model": "m", "dataset": "d", **sizes, **settings})


def saved(folder: Path, **batch: int) -> Path:
    (folder / "MANIFEST.json").write_text(json.dumps({"files": {}, "batch": batch}))
    return folder


@pytest.mark.parametrize(
    ("processes", "device", "accumulated"),
    [(2, 4, 2), (1, 4, 4), (4, 4, 1), (8, 2, 1), (16, 1, 1)],
)
def test_a_step_keeps_its_examples(tmp_path, processes, device, accumulated):
    before = saved(tmp_path, device=4, accumulated=2, examples=16)

    kept, batch = with_same_batch(config(4, 2), before, processes)

    assert (kept.per_device_train_batch_size, kept.gradient_accumulation_steps) == (
        device,
        accumulated,
    )
    assert batch == {"device": 4, "accumulated": 2, "examples": 16}  # so it stays the next time


@pytest.mark.parametrize(
    ("asked", "processes", "examples"),
    [
        (config(4, 2), 3, 24),  # 16 examples cannot be shared by three
        (config(4, 2), 32, 256),
        (config(4, 3), 4, 48),  # the job asks for others by now
        (config(4, 2, method="ppo", reward_functions=["length"]), 4, 32),
    ],
)
def test_where_it_cannot_the_job_says_how_many(tmp_path, asked, processes, examples):
    before = saved(tmp_path, device=4, accumulated=2, examples=16)

    kept, batch = with_same_batch(asked, before, processes)

    assert kept == asked
    assert batch["examples"] == examples
    assert with_same_batch(asked, None, processes) == (asked, batch)
