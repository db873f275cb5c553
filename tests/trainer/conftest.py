"""What the trainer's tests share: a tiny base model, a tokenizer, rows, a process left as it was."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch

import pytest

if TYPE_CHECKING:
    from tests.trainer.jobs import Job
    from trainer.config import TrainingConfig

MakeJob = Callable[..., "Job"]
MakeConfig = Callable[..., "TrainingConfig"]
WriteRows = Callable[..., Path]


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


@pytest.fixture(scope="session")
def make_config() -> MakeConfig:
    """Return a config for a dataset at a path, or for a mapping of dataset settings."""

    from trainer.config import TrainingConfig

    def make(dataset: Any, **settings: Any) -> TrainingConfig:
        dataset = str(dataset) if isinstance(dataset, Path) else dataset
        return TrainingConfig.model_validate({"model": "m", "dataset": dataset, **settings})

    return make


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """Write rows as JSONL and return the file."""

    def write(rows: Iterable[Any], name: str = "train.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def build_tokenizer() -> Callable[..., Any]:
    """Return a maker of byte-level BPE tokenizers, so that every text survives the round trip."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    def build(*, adds_bos: bool = False, template: str | None = None) -> Any:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        special = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        core.train_from_iterator(["user assistant system: the answer is here.\n\n"] * 9, trainer)
        if adds_bos:
            core.post_processor = processors.TemplateProcessing(
                single="<s> $A", special_tokens=[("<s>", 1)]
            )
        else:
            core.post_processor = processors.ByteLevel(trim_offsets=True)
        names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=core,
            additional_special_tokens=["<|im_start|>", "<|im_end|>"],
            **names,
        )
        tokenizer.chat_template = template
        return tokenizer

    return build


@pytest.fixture(scope="session")
def tokenizer(build_tokenizer: Callable[..., Any]) -> Any:
    """A tokenizer that has no chat template until it is given one."""
    return build_tokenizer()
