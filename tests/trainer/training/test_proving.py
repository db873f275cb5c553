"""What is proven of a job is said before it starts, in the words of its log, and without a step."""

import json

import pytest

from tests.trainer.architectures.tiny import tiny_model_folder
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState
from trainer.training.proving import main, prove
from trainer.training.train import read_config

pytestmark = pytest.mark.xdist_group("torch")


def test_it_says_what_the_log_of_the_training_says(make_job, tmp_path, capsys):
    job = make_job(tmp_path / "job", max_steps=1)

    [found] = prove(read_config(job.directory))

    assert found["text"].startswith("rows of a batch: by document, as each alone to ")
    capsys.readouterr()
    assert job.train() is JobState.COMPLETED
    assert found["text"] in capsys.readouterr().out.splitlines()


def test_answers_are_tried_and_the_rewards_are_not_run(make_job, tmp_path):
    code, rows = tmp_path / "mine.py", tmp_path / "rows.jsonl"
    code.write_text("raise SystemExit('this is run')\n")
    rows.write_text(json.dumps({"prompt": "What is it?"}) + "\n")
    rows.write_text(rows.read_text() * 8)
    job = make_job(
        tmp_path / "job",
        method="grpo",
        data={"path": str(rows)},
        reward_functions=[f"{code}:score"],
        num_generations=2,
        max_completion_length=8,
    )

    words = [found["text"] for found in prove(read_config(job.directory))]

    assert words[0].startswith("rows of a batch: by document, as each alone to ")
    assert words[1].startswith("answers: written together, as each alone to ")


def test_what_is_refused_is_said_as_the_training_says_it(make_job, tmp_path, capsys):
    model = tiny_model_folder(tmp_path / "model", "gpt_oss")
    job = make_job(tmp_path / "job", model=str(model), packing=True)
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"name": "job", "training": job.config}))

    assert main(str(path)) == 1

    said = json.loads(capsys.readouterr().out)
    with pytest.raises(ConfigError, match="GptOssForCausalLM does not keep rows apart") as refused:
        job.train()
    assert said["message"] == refused.value.message
