"""The same on a GPU."""

import pytest

from tests.trainer.jobs import PausesAfter
from trainer.contract.job_directory import Desired, JobState

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
    import json

    from transformers import AutoConfig, AutoTokenizer

    from tests.trainer.jobs import TINY_LLAMA
    from trainer.contract.manifest import verify
    from trainer.engine.memory_prediction import OVERHEAD_GB

    wide = tmp_path / "wide"
    AutoConfig.from_pretrained(TINY_LLAMA, hidden_size=512, num_hidden_layers=8).save_pretrained(
        wide
    )
    AutoTokenizer.from_pretrained(TINY_LLAMA).save_pretrained(wide)
    rows = tmp_path / "long.jsonl"
    rows.write_text(
        16 * (json.dumps({"text": "To train a model is to show it text. " * 100}) + "\n")
    )
    job = make_job(
        tmp_path / "job",
        model=str(wide),
        init="random",
        peft=None,
        data={"path": str(rows)},
        max_length=512,
        per_device_train_batch_size=8,
    )
    job.train()

    usage = verify(job.directory.output)["usage"]
    # The context is not the allocator's, so it is no part of what is measured.
    used, expected = (
        usage[name] - OVERHEAD_GB["cuda"] for name in ("memory_gb", "memory_gb_predicted")
    )
    assert used == pytest.approx(expected, rel=0.25)


def test_on_a_gpu_a_compiled_model_trains(tmp_path, make_job):
    job = make_job(tmp_path / "job", learning_rate=0.02, arguments={"torch_compile": True})

    assert job.train() is JobState.COMPLETED

    losses = [r["train_loss"] for r in job.metrics.values() if "train_loss" in r]
    assert losses[-1] < losses[0]
