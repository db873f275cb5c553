"""The names of document 004's `.env`, and what they mean for a job."""

from __future__ import annotations

import pytest

from gateway.agent.settings import agent_service
from gateway.operations.creating import JobRequest
from tests.gateway.commanding import job_values
from tests.stand_in import stand_in
from trainer.contract.errors import ConfigError

DOCUMENT = """
# Backend
BACKEND_URL=https://app.finetunelab.ai
API_KEY=wak_your_worker_api_key

# Server
HOST=127.0.0.1
PORT=8000

# Paths
MODELS_DIR=./models
DATASETS_DIR=./datasets
CHECKPOINTS_DIR=./checkpoints
LOGS_DIR=./logs

# GPU
GPU_MEMORY_FRACTION=0.9
ENABLE_MIXED_PRECISION=false

# Training
MAX_CONCURRENT_JOBS=1
CHECKPOINT_INTERVAL_STEPS=500
METRICS_REPORT_INTERVAL_STEPS=10
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in which the agent is started; what it sets in the environment is gone afterwards."""
    for line in DOCUMENT.splitlines():
        if "=" in line:
            # Set and removed, so that what the file sets is undone too.
            monkeypatch.setenv(line.partition("=")[0], "")
            monkeypatch.delenv(line.partition("=")[0])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "rows.jsonl").touch()
    (tmp_path / ".env").write_text(DOCUMENT)
    return tmp_path


def test_the_documents_file_fills_in_what_a_request_leaves_open(folder):
    service = agent_service(folder / ".env", port=8123)
    asked = JobRequest(model_name="tiny", dataset_path="rows.jsonl", training={"save_steps": 7})
    job = service.filled(asked).to_job()

    assert (service.host, service.port, service.agent.max_concurrent_jobs) == (
        "127.0.0.1",
        8123,
        1,
    )
    assert service.agent.backend_url == "https://app.finetunelab.ai"
    assert job.training.model == str(folder / "models" / "tiny")
    assert job.training.dataset.path == str(folder / "datasets" / "rows.jsonl")
    assert (job.training.save_steps, job.training.logging_steps) == (7, 10)
    assert job.training.dtype == "float32"


def test_a_whole_job_is_filled_in_too_and_what_is_not_in_a_folder_stays(folder):
    values = job_values()
    job = agent_service(folder / ".env").filled(JobRequest(job=values)).to_job()

    assert job.training.model == values["training"]["model"]
    assert job.training.save_steps == 500


def test_another_trainer_gets_nothing_that_it_would_refuse(folder):
    values = {**job_values(), "training": stand_in(folder)}
    filled = agent_service(folder / ".env").filled(JobRequest(job=values))

    assert filled.to_job().training.trainer == "command"
    assert filled.job == values


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_CONCURRENT_JOBS", "0"),
        ("GPU_MEMORY_FRACTION", "90"),
        ("CHECKPOINT_INTERVAL_STEPS", "often"),
        ("ENABLE_MIXED_PRECISION", "perhaps"),
        ("BACKEND_URL", "app.finetunelab.ai"),
        ("PORT", "80000"),
    ],
)
def test_a_value_that_cannot_be_is_named(folder, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name} = .*{value}"):
        agent_service(folder / ".env")
