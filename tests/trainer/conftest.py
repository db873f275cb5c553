"""What the tests that train share: a tiny base model, a few rows, a process left as it was."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch

import pytest

if TYPE_CHECKING:
    from tests.trainer.jobs import Job

MakeJob = Callable[..., "Job"]


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty short chats of different lengths."""
    words = ["model", "data", "token", "loss", "step", "batch", "rank", "the", "a", "of", "is"]
    draw = random.Random(0)  # noqa: S311 - no secret
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    with path.open("w") as stream:
        for _ in range(30):
            question, answer = (" ".join(draw.choices(words, k=draw.randint(3, 12))) for _ in "12")
            turns = [("user", question), ("assistant", answer)]
            row = {"messages": [{"role": role, "content": content} for role, content in turns]}
            stream.write(json.dumps(row) + "\n")
    return path


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with random weights and the tokenizer of the examples."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from tests.trainer.jobs import TINY_LLAMA

    torch.set_num_threads(1)
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("models") / "base"
    config = AutoConfig.from_pretrained(TINY_LLAMA, num_hidden_layers=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY_LLAMA).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_job(base_model: Path, rows: Path) -> MakeJob:
    """Return a maker of jobs: adapters on the base model, unless it is told otherwise."""
    from tests.trainer.jobs import Job

    def make(root: Path, **settings: Any) -> Job:
        dataset = {"path": str(rows), **settings.pop("data", {})}
        return Job(root, **{"model": str(base_model), "dataset": dataset, **settings})

    return make


@pytest.fixture(autouse=True)
def undisturbed() -> Iterator[None]:
    """Undo what the trainer does to its process: signal handlers and environment."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    environment = dict(os.environ)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    os.environ.clear()
    os.environ.update(environment)
