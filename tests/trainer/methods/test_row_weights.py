"""A row's weight multiplies the loss of what is learned of it, however rows are laid out."""

import json
import subprocess

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.trainer.supervised import ENVIRONMENT, command
from trainer.contract.errors import DataError
from trainer.contract.job_directory import JobState
from trainer.data import inspect_dataset
from trainer.data.tokenization import prepare_datasets
from trainer.engine.model import load_model, load_tokenizer
from trainer.training.train import read_config

pytestmark = pytest.mark.xdist_group("torch")
WEIGHTS = [1, 0.25, "2.5", None, 0, 3]
"""Of six rows; a table may hold a number as a text."""


@pytest.fixture(scope="module")
def weighted(tmp_path_factory):
    """Return files of six rows with weights, as chats and as texts."""
    folder = tmp_path_factory.mktemp("weighted")
    said = ["the model is the loss " * (1 + i % 3) + f"step {i}" for i in range(len(WEIGHTS))]
    for name in ("chats", "texts"):
        with (folder / f"{name}.jsonl").open("w") as stream:
            for text, weight in zip(said, WEIGHTS, strict=True):
                chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": text}]
                row = {"messages": chat} if name == "chats" else {"text": text}
                stream.write(json.dumps({**row, "weight": weight}) + "\n")
    return folder


def plain_step(job, model, rows):
    """Return the loss of one step over all rows, and the weights after it, by nothing but logits."""
    learned = sum(label != -100 for row in rows for label in row["labels"][1:])
    total = torch.zeros(())
    for row in rows:
        ids, labels = (torch.tensor([row[name]]) for name in ("input_ids", "labels"))
        losses = cross_entropy(model(input_ids=ids).logits[0, :-1], labels[0, 1:], reduction="none")
        weights = torch.tensor(row["weight"]).expand(ids.shape[1])[1:]
        total = total + (losses * weights).sum()
    loss = total / learned
    loss.backward()
    rate = job.config["learning_rate"]
    return float(loss.detach()), {n: p - rate * p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("sft", {"padding_free": False, "per_device_train_batch_size": 5}),
        pytest.param(
            "sft",
            {"padding_free": True, "per_device_train_batch_size": 5},
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "sft",
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3},
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "sft",
            {"packing": True, "per_device_train_batch_size": 2, "max_length": 64},
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "sft",
            {"assistant_only_loss": False, "per_device_train_batch_size": 5},
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "cpt",
            {"packing": False, "per_device_train_batch_size": 5},
            marks=pytest.mark.thorough,
        ),
        ("cpt", {"per_device_train_batch_size": 1, "max_length": 256}),
    ],
)
def test_a_step_is_that_of_the_weighted_losses_of_all_rows(
    weighted, make_job, tmp_path, method, settings
):
    path = weighted / ("texts.jsonl" if method == "cpt" else "chats.jsonl")
    job = make_job(
        tmp_path / "job",
        data={"path": str(path)},
        method=method,
        **{
            "peft": None,
            "optim": "sgd",
            "learning_rate": 0.5,
            "max_grad_norm": 0,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "max_steps": 1,
            **settings,
        },
    )
    config = read_config(job.directory)
    data = prepare_datasets(config, load_tokenizer(config), job.directory.cache)
    rows = data.train.to_list()
    assert [row["weight"] for row in rows] == [1, 0.25, 2.5, 1, 3]
    assert data.facts["why"] == {"weight 0": 1}
    if config.packs and method == "cpt":  # joined, a token sees the documents before its own
        joined = {name: [t for row in rows for t in row[name]] for name in ("input_ids", "labels")}
        rows = [joined | {"weight": [row["weight"] for row in rows for _ in row["labels"]]}]
    loss, after = plain_step(job, load_model(config).eval(), rows)

    assert job.train() is JobState.COMPLETED

    assert job.metrics[1]["train_loss"] == pytest.approx(loss, rel=1e-4)
    from safetensors.torch import load_file

    learned = load_file(job.directory.output / "model.safetensors")
    for name, weight in learned.items():
        torch.testing.assert_close(weight, after[name].detach(), rtol=1e-4, atol=1e-5)


def test_weights_are_told_and_rows_that_are_held_out_have_none(
    weighted, make_job, tmp_path, capsys
):
    path = str(weighted / "chats.jsonl")
    job = make_job(tmp_path / "job", data={"path": path, "eval_path": path}, max_steps=1)
    plain = tmp_path / "plain.jsonl"
    lines = [json.loads(line) for line in (weighted / "chats.jsonl").read_text().splitlines()]
    bare = [{"messages": each["messages"]} for each in lines]
    plain.write_text("".join(json.dumps(row) + "\n" for row in bare))
    other = make_job(tmp_path / "other", data={"path": path, "eval_path": str(plain)}, max_steps=1)

    for each in (job, other):
        assert each.train() is JobState.COMPLETED

    assert "The loss of 3 rows is multiplied by their own weights." in capsys.readouterr().out
    assert job.metrics[0]["eval_loss"] == other.metrics[0]["eval_loss"]


def test_without_weights_rows_are_as_before(make_config, write_rows, tokenizer, tmp_path):
    config = make_config(write_rows([{"text": "a", "weight": 1}, {"text": "b"}]))

    data = prepare_datasets(config, tokenizer, tmp_path / "cache")

    assert data.train.column_names == ["input_ids", "labels"]
    assert data.facts["unread"] == {}


@pytest.mark.parametrize(
    "weight", [-1, "heavy", [1], "nan", "inf", {"kg": 1}, pytest.param(10**400, id="huge"), 1e300]
)
def test_what_is_not_a_weight_is_refused(make_config, write_rows, weight):
    config = make_config(write_rows([{"text": "a", "weight": weight}]))

    with pytest.raises(DataError, match=r"train.jsonl:1: weight: is .*give a number from 0 to"):
        inspect_dataset(config)


def test_a_weight_may_have_another_name(make_config, write_rows, tokenizer, tmp_path):
    path = write_rows([{"text": "a", "importance": 2, "weight": "72 kg"}, {"text": "b"}])
    config = make_config({"path": str(path), "columns": {"weight": "importance"}})

    data = prepare_datasets(config, tokenizer, tmp_path / "cache")

    assert data.train["weight"][:] == [2, 1]
    assert data.facts["unread"] == {"weight": 1}


@pytest.mark.parametrize("method", ["dpo", "orpo", "kto", "reward"])
def test_a_method_that_learns_from_whole_answers_refuses_weights(make_config, write_rows, method):
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    config = make_config(
        write_rows([{**pair, "weight": 1}, {**pair, "weight": 0.5}]), method=method
    )

    with pytest.raises(
        DataError, match=r"train.jsonl:2: weight: is 0.5, and only sft and cpt weigh"
    ):
        inspect_dataset(config)


def test_prompts_keep_their_weights_for_reward_functions(
    make_config, write_rows, tokenizer, tmp_path
):
    path = write_rows([{"prompt": "a", "weight": 0.5}])
    config = make_config(path, method="grpo", reward_functions=["length"])

    data = prepare_datasets(config, tokenizer, tmp_path / "cache")

    assert data.train[0] == {"prompt": "a", "weight": 0.5}


@pytest.mark.thorough
def test_two_processes_weigh_a_stream_as_one_does(weighted, make_job, tmp_path):
    settings = {
        "data": {"path": str(weighted / "chats.jsonl"), "streaming": True},
        "max_steps": 4,
        "peft": {"r": 4, "lora_dropout": 0.0},
        "gradient_accumulation_steps": 2,
    }
    alone = make_job(tmp_path / "alone", **settings, per_device_train_batch_size=2)
    pair = make_job(tmp_path / "pair", **settings, per_device_train_batch_size=1)
    pair.write(config=pair.config, world={"processes": 2})

    assert alone.train() is JobState.COMPLETED
    words = command(pair.directory.root)
    subprocess.run(words, env=ENVIRONMENT, capture_output=True, timeout=240, check=True)

    curves = [[job.metrics[step]["train_loss"] for step in range(1, 5)] for job in (alone, pair)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
