"""Training for real: what is learnt, logged, evaluated and left behind."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.jobs import Job, digest
from trainer.contract.job_directory import JobState
from trainer.contract.manifest import MANIFEST, verify

pytestmark = pytest.mark.xdist_group("torch")
DOCUMENTED = {
    "step": int,
    "total_steps": int,
    "epoch": float,
    "attempt": int,
    "timestamp": str,
    "train_loss": float,
    "perplexity": float,
    "learning_rate": float,
    "grad_norm": float,
    "tokens_per_second": float,
    "samples_per_second": float,
    "eta_seconds": float,
    "gpu_memory_allocated_gb": float | None,
    "gpu_memory_reserved_gb": float | None,
    "gpu_utilization_percent": float | None,
    "cpu_percent": float,
    "ram_gb": float,
}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, make_job) -> Job:
    """One finished run with adapters, evaluation and TensorBoard."""
    job = make_job(
        tmp_path_factory.mktemp("adapters") / "job",
        peft={"r": 4, "lora_alpha": 8},
        data={"eval_fraction": 0.2},
        eval_steps=3,
        save_steps=4,
        learning_rate=0.02,
        report_to=["tensorboard"],
    )
    assert job.train() is JobState.COMPLETED
    return job


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, make_job) -> Job:
    """One finished run of all weights, from random ones, by epochs."""
    job = make_job(
        tmp_path_factory.mktemp("whole") / "job",
        peft=None,
        init="random",
        data={"eval_fraction": 0.2, "max_rows": 10},
        max_steps=-1,
        num_train_epochs=2,
        eval_on_start=False,
        learning_rate=0.01,
    )
    assert job.train() is JobState.COMPLETED
    return job


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, make_job) -> Job:
    """One finished run of continued pretraining."""
    folder = tmp_path_factory.mktemp("packed")
    text = "To train a model is to show it text. " * 3
    rows = folder / "texts.jsonl"
    rows.write_text("".join(json.dumps({"text": f"{i}. {text}"}) + "\n" for i in range(40)))
    job = make_job(
        folder / "job", method="cpt", data={"path": str(rows)}, max_steps=4, learning_rate=0.02
    )
    assert job.train() is JobState.COMPLETED
    return job


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def test_adapters_alone_are_the_output(adapters):
    found = names(adapters.directory.output)

    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= found
    assert "model.safetensors" not in found


def test_all_weights_are_the_output_without_adapters(whole):
    found = names(whole.directory.output)

    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= found
    assert "adapter_model.safetensors" not in found


@pytest.mark.parametrize("run", ["adapters", "whole", "packed"])
def test_no_pickle_is_in_the_output(run, request):
    output = request.getfixturevalue(run).directory.output

    suffixes = {path.suffix for path in output.rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".jinja", ".md"}


@pytest.mark.parametrize("run", ["adapters", "whole", "packed"])
def test_the_manifest_of_the_output_describes_every_file(run, request):
    output = request.getfixturevalue(run).directory.output

    assert set(verify(output)["files"]) == names(output) - {MANIFEST}


@pytest.mark.parametrize("run", ["adapters", "whole", "packed"])
def test_the_loss_falls(run, request):
    losses = [r["train_loss"] for r in request.getfixturevalue(run).metrics.values() if r["step"]]

    assert losses[-1] < losses[0]


def test_the_model_card_tells_data_and_versions(adapters, rows):
    import hashlib

    import transformers

    card = (adapters.directory.output / "README.md").read_text()

    data = verify(adapters.directory.output)["data"]
    assert data["sha256"] in card
    assert len(data["sha256"]) == len(hashlib.sha256(rows.read_bytes()).hexdigest())
    assert f"| transformers | {transformers.__version__} |" in card
    assert "AutoPeftModelForCausalLM" in card
    assert "30 rows" in card


def test_the_data_hash_changes_with_the_data(adapters, packed):
    hashes = {verify(job.directory.output)["data"]["sha256"] for job in (adapters, packed)}

    assert len(hashes) == 2


@pytest.mark.thorough
def test_adapters_load_in_a_fresh_process_and_change_what_the_model_says(adapters):
    script = """
import json, sys, torch, peft
from transformers import AutoModelForCausalLM, AutoTokenizer
base, output = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base)
tokens = AutoTokenizer.from_pretrained(output)("a model of data", return_tensors="pt")
before = model(**tokens).logits
model = peft.PeftModel.from_pretrained(model, output)
after = model(**tokens).logits
print(json.dumps([float((after - before).abs().max()), bool(torch.isfinite(after).all())]))
"""
    base, output = adapters.config["model"], str(adapters.directory.output)
    command = [sys.executable, "-c", script, base, output]

    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)

    difference, finite = json.loads(done.stdout)
    assert difference > 0.01
    assert finite


def test_the_whole_model_loads_and_says_something_else_than_at_first(whole):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    trained = AutoModelForCausalLM.from_pretrained(whole.directory.output)
    set_seed(42)
    fresh = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(whole.config["model"]))

    tokens = torch.arange(20, 40)[None]
    with torch.no_grad():
        difference = (trained(tokens).logits - fresh(tokens).logits).abs().max()
    assert 0.1 < difference < 100


def test_every_step_has_all_documented_metrics(adapters):
    metrics = adapters.metrics

    assert [n for n in metrics if "train_loss" in metrics[n]] == list(range(1, 9))
    for step in range(1, 9):
        wrong = {n: metrics[step].get(n) for n, kind in DOCUMENTED.items() if not isinstance(metrics[step][n], kind)}  # fmt: skip
        assert not wrong
    assert metrics[8]["total_steps"] == 8
    assert metrics[8]["eta_seconds"] == 0


def test_perplexity_is_the_exponential_of_the_loss(adapters):
    lines = map(json.loads, adapters.directory.metrics.read_text().splitlines())

    for line in lines:
        loss = line.get("train_loss", line.get("eval_loss"))
        assert line["perplexity"] == pytest.approx(math.exp(loss))


def test_evaluation_is_at_the_start_every_so_many_steps_and_at_the_end(adapters):
    assert sorted(adapters.evaluations) == [0, 3, 6, 8]


def test_evaluation_is_once_an_epoch_by_default(whole):
    assert sorted(whole.evaluations) == [4, 8]


def test_checkpoints_are_where_they_were_asked_for_and_at_the_end(adapters, whole, packed):
    assert adapters.saved_steps == [8, 4]
    assert whole.saved_steps == [8]
    assert packed.saved_steps == [4]


def test_no_pickle_that_is_not_needed_is_in_a_checkpoint(adapters):
    pickles = {
        n for n in names(adapters.checkpoint(8)) if not n.endswith((".json", ".safetensors"))
    }

    assert pickles - {"chat_template.jinja"} == {"optimizer.pt", "scheduler.pt", "rng_state.pth"}


def test_the_output_is_the_last_checkpoint(adapters):
    assert adapters.weights == digest(adapters.checkpoint(8))


def test_tensorboard_gets_the_same_losses(adapters):
    (events,) = (adapters.directory.reports / "tensorboard").glob("events.out.tfevents.*")

    content = events.read_bytes()
    assert content.count(b"train/loss") == 8
    assert content.count(b"eval/loss") == 4


def test_packed_blocks_are_full(packed):
    for record in packed.metrics.values():
        length = record["tokens_per_second"] / record["samples_per_second"]
        assert length == pytest.approx(packed.config["max_length"], rel=1e-2)


def test_a_finished_job_is_not_trained_again(adapters, capsys):
    before = adapters.directory.metrics.read_bytes()

    assert adapters.train() is JobState.COMPLETED

    assert adapters.directory.metrics.read_bytes() == before
    assert "the output already exists" in capsys.readouterr().out
