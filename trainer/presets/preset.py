"""What every preset is made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.config import LoraConfig, QuantizationConfig, TrainingConfig
from trainer.errors import ConfigError
from trainer.methods import METHODS

FOLDER = "preset"
"""Where a project's own settings and the rows lie, in the job directory."""
OUT = "out"
"""What the project writes into."""
TRAIN, EVAL = "train.jsonl", "eval.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start of another project's trainer."""

    config: TrainingConfig
    root: Path
    """The job directory."""
    resume_from: Path | None = None
    batch_divisor: int = 1
    """What the batch size is divided by since memory ran out."""
    has_gpu: bool = False

    @property
    def batch_size(self) -> int:
        """Examples per device and forward pass."""
        return self.config.per_device_train_batch_size // self.batch_divisor

    @property
    def accumulation(self) -> int:
        """Forward passes per optimizer step."""
        return self.config.gradient_accumulation_steps * self.batch_divisor

    @property
    def learning_rate(self) -> float:
        """The learning rate, by the rule that our own trainer has too."""
        default = METHODS[self.config.method].learning_rate(adapters=self.config.peft is not None)
        return self.config.learning_rate or default

    @property
    def rows(self) -> Path:
        """The training rows as we write them."""
        return self.root / FOLDER / TRAIN

    @property
    def eval_rows(self) -> Path | None:
        """The held-out rows of dataset.eval_path."""
        return self.root / FOLDER / EVAL if self.config.dataset.eval_path else None

    @property
    def evaluates(self) -> bool:
        """Whether rows are held out."""
        return bool(self.config.dataset.eval_path or self.config.dataset.eval_fraction)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Another project: how it is called, started and understood."""

    name: str
    program: str
    arguments: tuple[str, ...]
    files: Callable[[Start], dict[str, str]]
    """Its own settings: text by path in the job directory."""
    command: Mapping[str, Any]
    """How to understand it, as `training.command` says it."""
    cannot: Mapping[str, Callable[[TrainingConfig], object]] = field(default_factory=dict)
    """What it cannot do: a field's name → whether the job asks for it."""


def refuse(config: TrainingConfig, preset: Preset) -> None:
    """Refuse what a project cannot do.

    Raises:
        ConfigError: naming the field and its value.
    """
    cannot = {
        "method": asks_for_more_than_tokens,
        "peft.peft_type": lambda config: config.peft and config.peft.is_soft_prompt,
        **preset.cannot,
    }
    for name, asked in cannot.items():
        if asked(config):
            value: Any = config
            for part in name.split("."):
                value = getattr(value, part)
            raise ConfigError(
                f"training.{name} = {value!r}: trainer: {preset.name} cannot do this.",
                "Leave it out, or train with trainer: builtin.",
            )


def asks_for(name: str) -> Callable[[TrainingConfig], bool]:
    """Return whether a field of `quantization`, by its name, is another than it is by default."""

    def asks(config: TrainingConfig) -> bool:
        fields = QuantizationConfig.model_fields
        return bool(
            config.quantization and getattr(config.quantization, name) != fields[name].default
        )

    return asks


def trains_biases(config: TrainingConfig) -> bool:
    """Whether biases are to be trained, which other projects have no setting for."""
    return isinstance(config.peft, LoraConfig) and config.peft.bias != "none"


def asks_for_more_than_tokens(config: TrainingConfig) -> bool:
    """Whether the method is another one than sft and cpt, which alone are translated."""
    return not METHODS[config.method].learns_from_tokens


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Return settings as JSON, which every reader of YAML reads; None is left out."""
    return json.dumps({n: v for n, v in settings.items() if v is not None}, indent=1) + "\n"
