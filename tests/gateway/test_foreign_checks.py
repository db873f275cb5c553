"""What is wrong with a command is one sentence, before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.checks import checked_job
from trainer.contract.errors import ConfigError


def command_file(folder: Path, **command: Any) -> Path:
    """Write a job with a command that is right but for what is given."""
    (folder / "my_train.py").write_text("")
    right = {"run": ["python", "my_train.py"], "files": ["my_train.py"]}
    training = {"trainer": "command", "command": {**right, **command}}
    path = folder / "job.yaml"
    YAML().dump({"name": "theirs", "training": training}, path)
    return path


def test_a_command_needs_neither_model_nor_dataset_and_finds_its_files(tmp_path):
    job = checked_job(command_file(tmp_path))

    assert job.training.command is not None
    assert job.training.command.files == [str(tmp_path / "my_train.py")]
    assert type(job).model_validate_json(job.model_dump_json()) == job


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ({"metrics": ["loss (?P<train_loss>"]}, "is not a regular expression"),
        ({"metrics": ["loss (?P<lost>.*)"]}, "'lost' is not a metric; there are: step"),
        ({"metrics": ["loss .*"]}, "has no named group"),
        ({"run": ["python", "{modle}"]}, "{modle} is not a placeholder; there are: job_directory"),
        ({"run": ["no-such-program"]}, "there is no program 'no-such-program'"),
        ({"run": "no-such-program --fast"}, "there is no program 'no-such-program'"),
        ({"run": []}, "needs command.run"),
        ({"run": ["python", "other.py"]}, "names 'other.py', which will not be in the job"),
        ({"files": ["none.py"]}, "none.py': there is no such file or folder"),
        ({"output": "../elsewhere"}, "must be a path below the job directory"),
        ({"output": "output"}, "output belongs to the product"),
        ({"env": {"HF_TOKEN": "hf_x"}}, "HF_TOKEN looks like a secret"),
        ({"succes": "x"}, "did you mean success?"),
    ],
)
def test_what_is_wrong_with_a_command_is_named(tmp_path, command, message):
    with pytest.raises(ConfigError) as caught:
        checked_job(command_file(tmp_path, **command))

    assert message in str(caught.value)
    assert "hf_x" not in str(caught.value)


def test_a_shell_line_may_use_the_shells_own_words(tmp_path):
    line = "cd . && X=${HOME} python my_train.py --to {output} --not {{output}}"

    assert checked_job(command_file(tmp_path, run=line)).training.trainer == "command"


def test_a_command_belongs_to_its_trainer(tmp_path):
    path = tmp_path / "job.yaml"
    training = {"model": "a/b", "dataset": "c/d", "command": {"run": ["true"]}}
    YAML().dump({"name": "theirs", "training": training}, path)

    with pytest.raises(ConfigError, match="set trainer: command"):
        checked_job(path)


@pytest.mark.parametrize(
    ("trainer", "training", "field"),
    [
        ("llama-factory", {"peft": {"bias": "all"}}, "training.peft.bias = 'all'"),
        ("axolotl", {"early_stopping_threshold": 0.1}, "training.early_stopping_threshold = 0.1"),
        ("axolotl", {"command": {"output": "x"}}, "command.output is what trainer: axolotl sets"),
    ],
)
def test_what_another_project_cannot_do_is_named(tmp_path, trainer, training, field):
    path = tmp_path / "job.yaml"
    base = {"trainer": trainer, "model": "a/b", "dataset": "c/d"}
    YAML().dump({"name": "theirs", "training": {**base, **training}}, path)

    with pytest.raises(ConfigError) as caught:
        checked_job(path)

    assert field in str(caught.value)
