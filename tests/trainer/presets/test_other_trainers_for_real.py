"""Other projects themselves, on a CPU, where they are installed: on the PATH, or as the environment
says by TORCHTUNE and LLAMA_FACTORY, which name their programs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.jobs import TINY_LLAMA
from tests.trainer.supervised import Supervised
from trainer.contract.job_directory import JobState
from trainer.contract.manifest import verify
from trainer.contract.metrics import read_metrics

PROGRAMS = {
    "torchtune": os.environ.get("TORCHTUNE") or shutil.which("tune"),
    "llama-factory": os.environ.get("LLAMA_FACTORY") or shutil.which("llamafactory-cli"),
}
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
pytestmark = [pytest.mark.thorough, pytest.mark.xdist_group("torch")]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen 2 with random weights, and the tokenizer of the examples in its files."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("models") / "qwen"
    bpe = json.loads((TINY_LLAMA / "tokenizer.json").read_text())["model"]
    tokens: dict[str, int] = bpe["vocab"]
    config = Qwen2Config(
        vocab_size=len(tokens) + len(SPECIAL),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    added = [{"id": len(tokens) + n, "content": text} for n, text in enumerate(SPECIAL)]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    (folder / "vocab.json").write_text(json.dumps(tokens))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return folder


@pytest.mark.parametrize(
    ("trainer", "peft"),
    [("torchtune", {"r": 8}), ("torchtune", None), ("llama-factory", {"r": 8})],
)
def test_it_trains_and_leaves_an_artifact(
    tmp_path: Path, rows: Path, qwen: Path, trainer: str, peft: Any
):
    if PROGRAMS[trainer] is None:
        pytest.skip(f"{trainer} is not installed")
    job = Supervised(tmp_path / "job", "")
    job.write_job(
        config={
            "trainer": trainer,
            "command": {"run": [PROGRAMS[trainer]]},
            "model": str(qwen if trainer == "torchtune" else TINY_LLAMA),
            "dataset": str(rows),
            "peft": peft,
            "num_train_epochs": 3,
            "per_device_train_batch_size": 5,
            "max_length": 64,
            "learning_rate": 0.01,
        },
    )

    done = job.run()

    assert done.returncode == 0, job.log
    assert job.status.state is JobState.COMPLETED
    steps, _ = read_metrics(job.job.metrics)
    losses = [steps[n]["train_loss"] for n in sorted(steps)]
    assert len(losses) == 18  # thirty rows, three times, five at a time
    assert losses[-1] < losses[0] - 0.3
    files = verify(job.job.output)["files"]
    assert ("adapter_model.safetensors" in files) == (peft is not None)
