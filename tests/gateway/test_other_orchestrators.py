"""The commands and the configuration of a batch orchestrator, as its users have them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows.scheduling.other_names import changes_of
from tests.flows.batches.in_prefect import deployed
from tests.gateway.commanding import Trainctl, job_file
from trainer.contract.errors import ConfigError

CONFIG = """
scheduler:
  strategy: priority  # fifo, priority, fair_share
  max_concurrent_jobs: 4
  check_interval: 10  # seconds

resources:
  gpus: [0, 1]  # GPU IDs to use
  max_vram_per_gpu: 16  # GB
  max_system_ram: 64  # GB

monitoring:
  log_parse_interval: 5  # seconds
  metrics_retention: 7  # days

evaluation:
  auto_evaluate: true
  test_prompts: configs/test_prompts.json
  num_samples_per_checkpoint: 5
"""
AS_SETTINGS = {
    "strategy": "priority",
    "max_concurrent_jobs": 4,
    "check_interval": 10,
    "gpus": [0, 1],
    "max_vram_per_gpu": 16,
    "max_system_ram": 64,
}


def test_what_a_pool_obeys_is_set_and_the_rest_is_said():
    changes, notes = changes_of(YAML(typ="safe").load(CONFIG), "config.yaml")

    assert changes == AS_SETTINGS
    assert notes[0] == (
        "config.yaml: monitoring.log_parse_interval: needs no setting: logs and metrics are read as "
        "they are written"
    )
    assert notes[2].startswith("config.yaml: evaluation.auto_evaluate = True has no effect: ")
    assert len(notes) == 5
    assert changes_of({"evaluation": {"auto_evaluate": False}}, "c") == ({}, [])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"scheduler": {"strategie": "x"}},
            "scheduler.strategie is not a setting. Did you mean scheduler.strategy?",
        ),
        ({"strategy": "fifo"}, "must hold sections with settings"),
        ([], "must hold sections with settings"),
    ],
)
def test_an_unknown_name_is_refused(value: object, message: str):
    with pytest.raises(ConfigError) as caught:
        changes_of(value, "c.yaml")
    assert message in str(caught.value)


def test_its_commands_work_by_the_letter(trainctl: Trainctl, tmp_path: Path):
    deployment = asyncio.run(deployed())
    (tmp_path / "config.yaml").write_text(CONFIG)

    words = ("--config", job_file(tmp_path), "--name", "character_lora_v1", "--priority", "10")
    made = trainctl("submit", *words, "--deployment", deployment, "--json")
    job = json.loads(made.stdout)["id"]
    listed = json.loads(
        trainctl("list", "--status", "PENDING", "--limit", "10000", "--json").stdout
    )
    status = json.loads(trainctl("status", "--job-id", job, "--json").stdout)
    monitored = trainctl("monitor", "--job-id", job)
    pool = deployment.partition("/")[2]
    settings = trainctl("pool", "set", pool, "--config", tmp_path / "config.yaml", "gpus=[1]")
    cancelled = trainctl("cancel", "--job-id", job)

    assert job in {one["id"] for one in listed}
    assert (status["name"], status["job"]["priority"]) == ("character_lora_v1", 10)
    assert "created" in monitored.stdout
    assert cancelled.returncode == 0, cancelled.stderr
    assert "checkpoint" not in cancelled.stdout + cancelled.stderr  # it never trained
    assert settings.returncode == 0, settings.stderr
    shown = json.loads(trainctl("pool", "show", pool, "--json").stdout)
    assert {**AS_SETTINGS, "gpus": [1]}.items() <= shown.items()


def test_a_job_is_named_once(trainctl: Trainctl, tmp_path: Path):
    assert "ID is missing. Give it once, as ID or as --job-id ID." in trainctl("status").stderr
    assert "are both given" in trainctl("cancel", "a", "--job-id", "b").stderr
    assert "FILE is missing." in trainctl("submit").stderr
    assert "--state = 'done': is not a state; there are: created, " in (
        refused := trainctl("list", "--status", "done").stderr
    )
    assert ", pending, queued, cancelled. Choose one." in refused
