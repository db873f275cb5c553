"""Classification: classes are found, learned, measured, saved with the head, and resumed exactly."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.trainer.jobs import Job, PausesAfter
from tests.trainer.methods.classifying import SETTINGS, TOPICS, written
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import Desired, JobState
from trainer.contract.manifest import verify

pytestmark = [
    pytest.mark.xdist_group("torch"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
]
WORDS = ["good", "bad", "red", "blue", "cat", "dog", "is", "the", "a"]
LABELS = ["adapters", "data", "hardware", "training"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_job) -> Job:
    job = make_job(tmp_path_factory.mktemp("classify") / "job", **SETTINGS, merge=True)
    assert job.train() is JobState.COMPLETED
    return job


def test_classes_are_learned_and_measured(trained):
    first, last = trained.metrics[0], trained.metrics[16]

    assert last["eval_loss"] < first["eval_loss"] - 0.2
    assert last["eval_accuracy"] > first["eval_accuracy"] + 0.2
    assert 0 < last["eval_macro_f1"] <= 1
    made = verify(trained.directory.output)["training"]
    assert made["labels"] == LABELS
    assert sum(map(sum, made["taken_for"])) == 24
    right = sum(made["taken_for"][i][i] for i in range(4))
    assert last["eval_accuracy"] == pytest.approx(right / 24)
    card = (trained.directory.output / "README.md").read_text()
    assert "| is \\ is taken for | `adapters` |" in card
    assert "eval_macro_f1 (higher is better)" in card


@pytest.mark.thorough
def test_a_paused_job_goes_on_as_if_nothing_had_been(tmp_path, make_job, trained):
    job = make_job(tmp_path / "job", **SETTINGS)
    assert job.train(PausesAfter(job.directory, 7)) is JobState.PAUSED
    job.directory.request(Desired.RUN)

    assert job.train() is JobState.COMPLETED

    assert job.curve == trained.curve
    assert job.weights == trained.weights


def test_the_lines_of_the_card_load_what_was_trained(trained, monkeypatch):
    from transformers import pipeline

    card = (trained.directory.output / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].split("# Or the base")[0]
    monkeypatch.chdir(trained.directory.output)
    found: dict = {}
    exec(code, found)  # noqa: S102 - it is what the card tells people to run
    merged = pipeline("text-classification", str(trained.directory.output / "merged"))
    texts = ["What is LoRA?", "How large is a byte?", "Explain epochs, in short, please."]

    loaded = pipeline("text-classification", found["model"], tokenizer=found["tokenizer"])

    assert found["model"].config.id2label == merged.model.config.id2label == dict(enumerate(LABELS))
    for one, other in zip(loaded(texts), merged(texts, batch_size=3), strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    heads = {n: p for n, p in found["model"].named_parameters() if "modules_to_save" in n}
    assert heads
    assert all(p.dtype.is_floating_point and p.element_size() == 4 for p in heads.values())


@pytest.mark.thorough
def test_the_head_is_held_in_float32_beside_16_bits(tmp_path, make_job):
    from safetensors.torch import load_file

    job = make_job(tmp_path / "job", **{**SETTINGS, "max_steps": 2, "dtype": "bfloat16"})

    assert job.train() is JobState.COMPLETED

    [head] = [
        weight
        for name, weight in load_file(job.directory.output / "adapter_model.safetensors").items()
        if "score" in name
    ]
    assert str(head.dtype) == "torch.float32"
    assert not head.bfloat16().float().equal(head), "it was never rounded"


@pytest.mark.thorough
def test_no_batch_size_changes_what_is_measured_or_learned(tmp_path, make_job, trained):
    """A step of 8 rows, as 1 × 8 or 3 + 3 + 2: the loss of a step is that of its rows."""
    plain = {**SETTINGS, "peft": {"r": 8, "lora_dropout": 0.0}, "max_steps": 2, "eval_steps": 2}
    whole = make_job(tmp_path / "a", **plain)
    parted = make_job(
        tmp_path / "b",
        **{**plain, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        per_device_eval_batch_size=5,
    )

    whole.train()
    parted.train()

    for step in (0, 1, 2):
        ours, theirs = whole.metrics[step], parted.metrics[step]
        for name in ("train_loss", "eval_loss", "eval_accuracy", "eval_macro_f1", "grad_norm"):
            if name in ours:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name


@pytest.mark.thorough
def test_of_several_data_sets_each_is_measured_and_all(tmp_path, make_job):
    topics = TOPICS.read_text().splitlines()
    for name, rows in (("a", topics[:60]), ("b", topics[60:80])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    sources = [{"path": str(tmp_path / f"{name}.jsonl"), "eval_fraction": 0.2} for name in "ab"]
    job = make_job(tmp_path / "job", **{**SETTINGS, "data": {"path": "", "x": 1}, "max_steps": 1})
    job.config["dataset"] = sources
    job.write(config=job.config)

    assert job.train() is JobState.COMPLETED

    found = job.metrics[0]
    for name in ("accuracy", "loss"):
        both = found[f"eval_a_{name}"] * 12 + found[f"eval_b_{name}"] * 4
        assert found[f"eval_{name}"] == pytest.approx(both / 16)
    assert {"eval_a_macro_f1", "eval_b_macro_f1", "eval_macro_f1"} <= found.keys()


def encoder(folder: Path, kind: str = "Bert", **further) -> Path:
    """A tiny encoder with a tokenizer of its own, as it was pretrained: without a classifier."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS]
    vocabulary = {word: i for i, word in enumerate(words)}
    unknown = {"unk_token": "[UNK]"}
    core = Tokenizer(models.WordLevel(vocabulary, **unknown))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = transformers.BertTokenizerFast(tokenizer_object=core, **unknown, **names)
    tokenizer.save_pretrained(folder)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=0.2,
        pad_token_id=0,
        **further,
    )
    transformers.set_seed(1)
    getattr(transformers, f"{kind}ForMaskedLM")(config).save_pretrained(folder)
    return folder


@pytest.mark.thorough
def test_an_encoder_learns_pairs_and_everything_fresh_is_saved(tmp_path, make_job):
    """A masked model's files lack a pooler: it is random, so it has to be trained and saved, too."""
    import torch
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoTokenizer

    draw = random.Random(0)  # noqa: S311 - no secret
    pairs = [draw.choices(["red", "blue"], k=2) for _ in range(60)]
    rows = [
        {"premise": f"the {a} cat", "hypothesis": f"a {b} dog", "label": int(a == b)}
        for a, b in pairs
    ]
    job = make_job(
        tmp_path / "job",
        method="classify",
        model=str(encoder(tmp_path / "bert")),
        data={"path": written(tmp_path / "rows.jsonl", rows), "eval_fraction": 0.2},
        peft={"r": 4},
        learning_rate=0.02,
        max_steps=60,
        eval_steps=60,
        per_device_train_batch_size=16,
    )

    assert job.train() is JobState.COMPLETED

    assert job.metrics[60]["eval_accuracy"] > 0.8, "which needs to know one text from the other"
    names = {"id2label": {0: "0", 1: "1"}, "label2id": {"0": 0, "1": 1}}
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(job.directory.output, **names)
    tokenizer = AutoTokenizer.from_pretrained(job.directory.output)
    texts = [[row[name] for row in rows] for name in ("premise", "hypothesis")]
    asked = tokenizer(*texts, return_tensors="pt", padding=True)
    assert asked["token_type_ids"].any()
    with torch.no_grad():
        said = loaded.eval()(**asked).logits.argmax(dim=1)
    right = said == torch.tensor([row["label"] for row in rows])
    assert float(right.float().mean()) > 0.8


@pytest.mark.thorough
def test_several_classes_may_fit_a_text(tmp_path, make_job):
    draw = random.Random(0)  # noqa: S311 - no secret
    words = ["good", "bad", "red"]
    rows = []
    for _ in range(60):
        chosen = [word for word in words if draw.random() < 0.5]
        rows.append({"sentence": " ".join(["the", *chosen]), "labels": chosen})
    job = make_job(
        tmp_path / "job",
        method="classify",
        model=str(encoder(tmp_path / "bert")),
        data={"path": written(tmp_path / "rows.jsonl", rows), "eval_fraction": 0.2},
        peft=None,
        learning_rate=0.01,
        max_steps=40,
        eval_steps=40,
        per_device_train_batch_size=16,
    )

    assert job.train() is JobState.COMPLETED

    assert job.metrics[40]["eval_accuracy"] > 0.9
    config = json.loads((job.directory.output / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {"0": "bad", "1": "good", "2": "red"}
    # A second training goes on with these classes, in the order of the first.
    again = {**job.config, "model": str(job.directory.output), "max_steps": 1}
    assert Job(tmp_path / "again", **again).train() is JobState.COMPLETED
    with pytest.raises(ConfigError, match="is a classifier of bad, good, red, in this order"):
        Job(tmp_path / "other", **{**again, "labels": ["red", "good", "bad"]}).train()


def test_a_card_of_a_repository_names_the_classes_that_training_found(make_config):
    from trainer.results.model_card import model_card
    from trainer.results.summary import Summary

    config = make_config("d.jsonl", method="classify")

    card = model_card(Summary(config=config, made={"labels": ["a", "b|c"]}), place="ada/topics")

    assert 'labels = ["a", "b|c"]\n' in card
    assert "MANIFEST" not in card


def test_rare_classes_may_count_more():
    import torch

    from trainer.config import TrainingConfig
    from trainer.methods.classify import class_weights

    def weights(given):
        config = {"method": "classify", "model": "m", "dataset": "d", "labels": ["a", "b"]}
        config = TrainingConfig.model_validate(config | {"class_weights": given})
        return class_weights(config, ["a"] * 9 + ["b"])

    assert weights(None) is None
    balanced = weights("balanced")
    assert torch.allclose(balanced, torch.tensor([10 / 18, 5.0]))
    assert float(balanced @ torch.tensor([9.0, 1.0])) == pytest.approx(10), (
        "a row counts 1 on average"
    )
    assert float(weights({"b": 3})[1] / weights({"b": 3})[0]) == pytest.approx(3)
