"""`trainctl init`: a job file made from the settings themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from flows.job_file import load_job, parse_job
from gateway.cli.job_template import job_template, write_template
from trainer.config import (
    DatasetConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    TrainingConfig,
    TrainingJob,
)
from trainer.config.peft import KINDS
from trainer.contract.errors import ConfigError

DEFAULT = re.compile(r"^( *)#(\w+: .*)$", re.MULTILINE)


def _uncommented() -> str:
    return DEFAULT.sub(r"\1\2", job_template())


def _names(value: dict[str, Any]) -> Iterator[str]:
    for name, nested in value.items():
        yield name
        if isinstance(nested, dict):
            yield from _names(nested)


def test_the_written_file_is_a_valid_job(tmp_path: Path):
    write_template(tmp_path / "job.yaml", force=False)

    job = load_job(tmp_path / "job.yaml")

    assert job.training.peft == LoraConfig()
    assert job.training.dataset.eval_fraction == 0.1


def test_every_default_may_be_uncommented_and_changes_nothing(tmp_path: Path):
    commented, bare = tmp_path / "commented.yaml", tmp_path / "bare.yaml"
    commented.write_text(job_template())
    bare.write_text(_uncommented())

    assert bare.read_text() != commented.read_text()
    assert load_job(bare) == load_job(commented)


@pytest.mark.parametrize("model", [TrainingJob, TrainingConfig, DatasetConfig, LoraConfig])
def test_no_setting_is_left_out(model: type[BaseModel], tmp_path: Path):
    (tmp_path / "job.yaml").write_text(_uncommented())

    assert set(model.model_fields) <= set(_names(parse_job(tmp_path / "job.yaml")))


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_the_other_kinds_of_adapters_stand_beside_and_may_be_taken_instead(kind: type[BaseModel]):
    lines = job_template().splitlines()
    begin = next(n for n, line in enumerate(lines) if f"peft_type: {_literal(kind)}  #" in line)
    block = lines[begin : begin + len(kind.model_fields)]

    shown = YAML(typ="safe").load("\n".join(line.replace("#", "", 1) for line in block))

    assert kind.model_validate(shown) == kind.model_validate({"peft_type": _literal(kind)})
    assert list(shown) == list(kind.model_fields)


def _literal(kind: type[BaseModel]) -> str:
    return kind.model_fields["peft_type"].annotation.__args__[0]


def test_the_form_can_show_every_kind_of_adapter():
    shown = TrainingConfig.model_json_schema()["properties"]["peft"]

    references = [choice.get("$ref", "").rpartition("/")[2] for choice in shown["anyOf"]]
    assert references == [*(kind.__name__ for kind in KINDS), ""]


def test_the_settings_own_words_are_the_comments():
    words = " ".join(line.strip(" #") for line in job_template().splitlines())

    for field in TrainingConfig.model_fields.values():
        assert " ".join((field.description or "").split()) in words


def test_a_file_that_is_there_is_kept(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text("mine")

    with pytest.raises(ConfigError, match=r"job\.yaml already exists.*--force"):
        write_template(path, force=False)

    assert path.read_text() == "mine"


def test_force_replaces_the_file(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text("mine")

    write_template(path, force=True)

    assert path.read_text() == job_template()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none/job\.yaml: No such file"):
        write_template(tmp_path / "none" / "job.yaml", force=False)
