"""`trainctl push`: the artifact of a completed job goes to the Hub, for the first time or again."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed, Running

from blocks.home import runs
from gateway.cli.push import push
from tests.clouds.hub import TOKEN, running_hub
from trainer.contract.errors import ConfigError, ProviderError
from trainer.contract.files import replace_json
from trainer.contract.manifest import write_manifest
from trainer.results import hub as uploading


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(uploading, "PAUSES", ())
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with running_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def run(tmp_path: Path, home: Path) -> FlowRun:
    """A completed run with an artifact."""
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "adapter_model.safetensors").write_bytes(b"w" * 4096)
    (artifact / "README.md").write_text("old")
    paths = {
        "base_model_name_or_path": "/home/ada/base",
        "tokenizer_name_or_path": "/home/ada/base",
    }
    (artifact / "adapter_config.json").write_text(json.dumps({**paths, "r": 8}))
    write_manifest(artifact, method="sft", metrics={"train_loss": 0.5}, data={"rows": 7})
    training = {"model": "org/base", "dataset": str(tmp_path / "rows.jsonl")}
    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="bot", state=Completed())
    run.parameters = {"job": {"name": "bot", "training": training}}
    (runs() / str(run.id)).mkdir(parents=True)
    replace_json(runs() / str(run.id) / "report.json", {"path": str(artifact)})
    return run


def test_the_artifact_arrives_with_a_card_of_its_own(hub, run):
    assert push(run, "ada/bot") == "ada/bot"

    arrived = hub.repositories["ada/bot"]
    assert arrived["adapter_model.safetensors"] == b"w" * 4096
    card = arrived["README.md"].decode()
    assert 'base_model: "org/base"' in card
    assert "| dataset | `rows.jsonl` |" in card
    assert "7 rows" in card
    adapter = json.loads(arrived["adapter_config.json"])
    assert adapter.pop("r") == 8
    assert set(adapter.values()) == {"org/base"}


def test_what_the_hub_does_not_take_is_told_and_can_be_repeated(hub, run):
    hub.failures["/api/repos/create"] = 1

    with pytest.raises(ProviderError, match=r"NOT uploaded to ada/bot.*503.*again later"):
        push(run, "ada/bot")

    assert push(run, "ada/bot") == "ada/bot"


def test_a_repository_must_be_named_and_the_job_completed(hub, run):
    with pytest.raises(ConfigError, match=r"names no repository.*--to owner/name"):
        push(run, None)

    run.state = Running()
    with pytest.raises(ConfigError, match="it has no artifact yet"):
        push(run, "ada/bot")


@pytest.mark.parametrize("name", ["bot", "", "ada/bot/x", "ada/..", "ada/" + "x" * 200, "a b/c"])
def test_a_name_that_is_none_of_a_repository_is_one_message(run, name: str):
    with pytest.raises(ConfigError, match=r"^--to: push_to_hub = .*must") as caught:
        push(run, name)

    assert "\n" not in str(caught.value)


def test_a_run_that_was_given_no_job_is_said(run):
    run.parameters = {"job": {"name": "bot", "trainning": {}}}

    with pytest.raises(ConfigError, match=r"job .*training is missing"):
        push(run, "ada/bot")
