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
