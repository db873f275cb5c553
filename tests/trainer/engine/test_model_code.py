"""A model that brings code of its own is loaded only where the job trusts that code."""

from __future__ import annotations

import json
import shutil

import pytest

from trainer.config import TrainingConfig
from trainer.config.model_code import check_model_code
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState

pytestmark = pytest.mark.xdist_group("torch")
OWN = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own-llama"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def own_model(tmp_path, base_model, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "own"
    shutil.copytree(base_model, folder)
    (folder / "own.py").write_text(OWN)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own-llama",
        "architectures": ["OwnModel"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_it_trains_where_it_is_trusted_and_its_code_stands_in_the_manifest(
    own_model, tmp_path, make_job
):
    job = make_job(tmp_path / "job", model=str(own_model), trust_remote_code=True, max_steps=1)

    assert job.train() is JobState.COMPLETED

    manifest = json.loads((job.directory.output / "MANIFEST.json").read_text())
    assert list(manifest["code"]) == ["own.py"]
    inputs = json.loads((job.checkpoint(1) / "inputs.json").read_text())
    assert inputs["the model's code own.py"] == manifest["code"]["own.py"]


def test_it_is_refused_by_name_where_it_is_not(own_model, tmp_path, make_job):
    with pytest.raises(ConfigError, match=r"made by code of its own \(own\.py\)") as refused:
        make_job(tmp_path / "job", model=str(own_model)).train()

    assert "trust_remote_code: true" in refused.value.suggestion


@pytest.mark.parametrize("revision", [None, "main", COMMIT[:12]])
def test_code_of_the_hub_needs_a_commit(revision):
    config = {"model": "org/model", "dataset": "d", "trust_remote_code": True}

    with pytest.raises(ConfigError, match=r"does not pin it"):
        check_model_code(TrainingConfig(**config, revision=revision))
    assert COMMIT in check_model_code(TrainingConfig(**config, revision=COMMIT))


def test_what_is_found_in_a_folder_is_said(own_model):
    config = {"model": str(own_model), "dataset": "d"}

    assert "not run: own.py" in check_model_code(TrainingConfig(**config))
    assert ", run: own.py" in check_model_code(TrainingConfig(**config, trust_remote_code=True))
