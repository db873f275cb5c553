"""A wrong job file gets one message that names file, line or field, and the remedy."""

from __future__ import annotations

import pytest

from flows.job_file import examples, load_job, on_this_computer
from trainer.config import TrainingJob
from trainer.contract.errors import ConfigError

GOOD = "name: a\ntraining: {model: m, dataset: d.jsonl}\n"


def refusal(tmp_path, content: str | bytes) -> str:
    path = tmp_path / "job.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load_job(path)
    return caught.value.message.replace(str(path), "job.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "job.yaml: is empty."),
        ("jobs: {a: {}}\n", "job.yaml: holds the jobs of a batch."),
        ("- a\n- b\n", "job.yaml: holds a list, not a mapping of field names to values."),
        ("just words\n", "job.yaml: holds a str, not a mapping of field names to values."),
        (b"name: \xff\n", "job.yaml: byte 6 is not UTF-8."),
        ("name: a\nname: b\n", 'job.yaml, line 2: found duplicate key "name" again.'),
        (GOOD + "colour: red\n", "job.yaml: colour is not a field; there are: "),
        (GOOD.replace("name: a", "nam: a"), "nam is not a field; did you mean name?"),
        (GOOD.replace("name: a", "name: ../../etc"), "name = '../../etc': must be 1 to 63"),
        (GOOD.replace("m,", "m, learning_rate: -1,"), "training.learning_rate = -1: must be"),
        (GOOD.replace("m,", "m, adapter: 5,"), "must be a valid string, or be a valid list"),
        (GOOD.replace("m,", "m, learning_rate: fast,"), "training.learning_rate = 'fast': must be"),
        (
            GOOD.replace("m,", "m, method: magic,"),
            "is not a training method; there are: classify, cpt, dpo, ",
        ),
        (GOOD.replace("m,", "m, peft: {rank: 8},"), "training.peft.rank is not a field"),
        (GOOD.replace("d.jsonl", "oss://a/b"), "dataset.path = 'oss://a/b': oss:// is not read"),
        ("name: a\ntraining: {model: m}\n", "job.yaml: training.dataset is missing."),
        ("x" * (2 << 20), "job.yaml: is larger than 1 MiB"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, content, message):
    assert message in refusal(tmp_path, content)


def test_broken_yaml_names_its_line(tmp_path):
    assert "job.yaml, line 4" in refusal(tmp_path, "name: a\ntraining:\n  model: [1, 2\nx: }\n")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file"):
        load_job(tmp_path / "nowhere.yaml")


def test_paths_are_relative_to_the_file(tmp_path):
    (tmp_path / "data.jsonl").write_text("{}\n")
    path = tmp_path / "job.yaml"
    path.write_text("name: a\ntraining: {model: org/name, dataset: data.jsonl}\noutput_dir: out\n")

    job = load_job(path)

    assert job.training.dataset.path == str(tmp_path / "data.jsonl")
    assert job.training.model == "org/name"
    assert job.output_dir == str(tmp_path / "out")


@pytest.mark.parametrize("form", ["{}", "{{sources: {}}}"])
def test_the_paths_of_every_data_set_are_relative_to_the_file(tmp_path, form):
    (tmp_path / "a.jsonl").write_text("{}\n")
    path = tmp_path / "job.yaml"
    mix = form.format("[a.jsonl, {path: org/name, eval_path: b.jsonl}]")
    path.write_text(f"name: a\ntraining: {{model: org/name, dataset: {mix}}}\n")

    found = load_job(path).training.dataset

    assert list(found.files()) == [
        ("sources.0.path", str(tmp_path / "a.jsonl")),
        ("sources.1.path", "org/name"),
        ("sources.1.eval_path", str(tmp_path / "b.jsonl")),
    ]


def test_paths_of_own_code_are_relative_to_the_file(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(
        "name: a\ntraining: {model: org/name, dataset: a.jsonl, method: grpo, formatting: f.py:g,"
        " callbacks: [sub/c.py:C], reward_functions: [length, r.py:mine]}\n"
    )

    training = load_job(path).training

    assert training.reward_functions == ["length", f"{tmp_path}/r.py:mine"]
    assert training.callbacks == [f"{tmp_path}/sub/c.py:C"]
    assert training.formatting == f"{tmp_path}/f.py:g"


def test_a_jobs_paths_are_those_of_the_computer_where_it_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "chats.jsonl").touch()
    values = {"model": "examples:tiny-llama", "dataset": {"path": "chats.jsonl"}}
    job = TrainingJob.model_validate({"name": "a", "training": values})

    here = on_this_computer(job)

    assert here.training.model == str(examples() / "tiny-llama")
    assert here.training.dataset.path == str(tmp_path / "chats.jsonl")
    assert here.training.model_fields_set == job.training.model_fields_set


def test_a_job_whose_paths_need_no_change_stays_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    values = {"model": "Qwen/Qwen3-0.6B", "dataset": {"path": "/data/chats.jsonl"}}
    job = TrainingJob.model_validate({"name": "a", "training": values})

    assert on_this_computer(job) is job


def test_the_base_of_an_adapter_need_not_be_named_again(tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    path = tmp_path / "job.yaml"
    path.write_text("name: a\ntraining: {adapter: ./adapter, dataset: org/rows}\n")

    job = load_job(path)

    assert job.training.model == "org/base"
    assert job.training.adapter == str(adapter)
