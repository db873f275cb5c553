"""The same on a GPU."""

import pytest
from jobs import PausesAfter

from trainer.job_directory import Desired, JobState

pytestmark = [pytest.mark.xdist_group("torch"), pytest.mark.gpu]


QLORA = {"quantization": {"load_in_4bit": True}, "optim": "paged_adamw_8bit"}


@pytest.mark.parametrize("settings", [{}, QLORA], ids=["lora", "qlora"])
def test_training_on_a_gpu_is_in_bfloat16_and_shows_its_gauges(settings, tmp_path, make_job):
    import torch

    data = {"eval_fraction": 0.2}
    job = make_job(tmp_path / "job", learning_rate=0.02, data=data, **settings)

    assert job.train(PausesAfter(job.directory, 4)) is JobState.PAUSED
    job.directory.request(Desired.RUN)
    assert job.train() is JobState.COMPLETED

    steps = [record for record in job.metrics.values() if "train_loss" in record]
    assert steps[-1]["train_loss"] < steps[0]["train_loss"]
    assert steps[-1]["gpu_memory_allocated_gb"] > 0
    assert steps[-1]["gpu_memory_reserved_gb"] >= steps[-1]["gpu_memory_allocated_gb"]
    assert torch.cuda.is_bf16_supported()


def test_on_a_gpu_rows_without_padding_train_as_padded_ones(tmp_path, make_job):
    flat, padded = (
        make_job(tmp_path / str(choice), learning_rate=0.01, padding_free=choice)
        for choice in (True, False)
    )

    for job in (flat, padded):
        assert job.train() is JobState.COMPLETED

    for step, record in padded.metrics.items():
        if "train_loss" in record:  # in bfloat16
            assert flat.metrics[step]["train_loss"] == pytest.approx(record["train_loss"], rel=0.02)


def test_on_a_gpu_the_predicted_memory_is_near_what_is_used(tmp_path, make_job):
    from trainer.manifest import verify

    job = make_job(tmp_path / "job", peft=None, per_device_train_batch_size=8)
    job.train()

    usage = verify(job.directory.output)["usage"]
    assert usage["memory_gb"] == pytest.approx(usage["memory_gb_predicted"], rel=0.25)


def test_on_a_gpu_a_compiled_model_trains(tmp_path, make_job):
    job = make_job(tmp_path / "job", learning_rate=0.02, arguments={"torch_compile": True})

    assert job.train() is JobState.COMPLETED

    losses = [r["train_loss"] for r in job.metrics.values() if "train_loss" in r]
    assert losses[-1] < losses[0]
