"""A tokenizer trained here and now, and short ways to write datasets and configs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from trainer.config import TrainingConfig

MakeConfig = Callable[..., TrainingConfig]
WriteRows = Callable[..., Path]


@pytest.fixture(scope="session")
def make_config() -> MakeConfig:
    """Return a config for a dataset at a path, or for a mapping of dataset settings."""

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
