"""What every preset is made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.config import TrainingConfig
from trainer.config.methods import METHODS
from trainer.config.peft import ALL_LINEAR
from trainer.config.settings import Settings
from trainer.contract.errors import ConfigError

FOLDER = "preset"
"""Where a project's own settings and the rows lie, in the job directory."""
OUT = "out"
"""What the project writes into."""
TRAIN, EVAL = "train.jsonl", "eval.jsonl"
LORA = frozenset(f"peft.{name}" for name in ("r", "lora_alpha", "lora_dropout", "target_modules"))
"""What every project that trains LoRA adapters has words for."""
# nan and inf too: a diverged loss must be seen, not passed over as a line without a number.
NUMBER = r"-?[\d.]+(?:e[+-]?\d+)?|nan|inf"
PRINTED = (
    # transformers' progress bar, and the dictionary that it prints at logging steps
    r"^\s*\d+%\|[^|]*\| (?P<step>\d+)/(?P<total_steps>\d+) \[",
    rf"'loss': '?(?P<train_loss>{NUMBER})'?"
    rf"(?:.*'grad_norm': '?(?P<grad_norm>{NUMBER}))?"
    rf"(?:.*'learning_rate': '?(?P<learning_rate>{NUMBER}))?"
    r"(?:.*'epoch': '?(?P<epoch>[\d.]+))?",
    rf"'eval_loss': '?(?P<eval_loss>{NUMBER})",
)
"""What transformers' Trainer prints, as patterns of metrics."""
HUGGING_FACE = frozenset(
    {
        *("init", "peft", *LORA, "peft.modules_to_save", "peft.use_dora", "peft.use_rslora"),
        *(
            "quantization.load_in_4bit",
            "quantization.load_in_8bit",
            "dataset.eval_path",
            "dataset.eval_split",
        ),
        *("quantization.bnb_4bit_quant_type", "quantization.bnb_4bit_use_double_quant"),
        *("dataset.eval_fraction", "num_train_epochs", "max_steps", "per_device_train_batch_size"),
        *("per_device_eval_batch_size", "gradient_accumulation_steps", "learning_rate"),
        *("lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim"),
        *("max_length", "packing", "assistant_only_loss", "gradient_checkpointing", "dtype"),
        *("seed", "logging_steps", "save_steps", "eval_steps"),
    }
)
"""What projects on transformers' Trainer and PEFT have words for."""


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
    row_count: int = 0
    """Rows to train on, of which eval_fraction may still be held out."""

    @property
    def batch_size(self) -> int:
        """Examples per device and forward pass."""
        return self.config.per_device_train_batch_size // self.batch_divisor

    @property
    def accumulation(self) -> int:
        """Forward passes per optimizer step."""
        return self.config.gradient_accumulation_steps * self.batch_divisor

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps, going by the number of rows."""
        return max(1, self.row_count // (self.batch_size * self.accumulation))

    @property
    def rows(self) -> Path:
        """The training rows as we write them."""
        return self.root / FOLDER / TRAIN

    @property
    def eval_rows(self) -> Path | None:
        """The held-out rows of dataset.eval_path."""
        return self.root / FOLDER / EVAL if self.config.dataset.has_evaluation else None

    @property
    def evaluates(self) -> bool:
        """Whether rows are held out."""
        return self.config.dataset.holds_out


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Another project: how it is called, started and understood."""

    name: str
    program: str
    """What starts it; empty where only the user knows where it is."""
    arguments: tuple[str, ...]
    files: Callable[[Start], dict[str, str]]
    """Its own settings: text by path in the job directory."""
    translates: frozenset[str]
    """The settings that reach it, such as `peft.r`; `CARRIED` ones always do."""
    command: Mapping[str, Any]
    """How to understand it, as `training.command` says it."""
    varies: Callable[[Start], Mapping[str, Any]] = lambda start: {}
    """What of `arguments` and `command` is another at every start; it wins."""
    cannot: Mapping[str, Callable[[TrainingConfig], object]] = field(default_factory=dict)
    """Values of these settings that it has no word for: a name → whether the job asks for one."""
    check: Callable[[TrainingConfig], None] = lambda config: None
    """Looks at what the job names on this computer, and raises where something is missing."""
    reads_rows: bool = True
    """Whether it learns from our rows, written as JSONL; else the dataset is its own matter."""


CARRIED = frozenset(
    {
        *("trainer", "method", "model", "formatting", "arguments", "report_to"),
        *("command", "command.run", "command.files", "command.env", "command.stop_signal"),
        *("dataset.path", "dataset.format", "dataset.columns", "dataset.subset", "dataset.split"),
        *(
            "dataset.sha256",
            "dataset.eval_sha256",
            "dataset.max_rows",
            "async_save",
            "save_total_limit",
        ),
    }
)
"""Settings that need no word of the project's: who trains, which rows we write, which checkpoints
we keep."""


def refuse(config: TrainingConfig, preset: Preset) -> None:
    """Refuse what a project cannot do, and whatever it would silently leave out.

    Raises:
        ConfigError: naming the field and its value.
    """
    refuse_unread(config, CARRIED | preset.translates)
    # Refused rather than ignored: a setting that silently does nothing costs a training.
    given = {name: value for name, value, _ in leaves(config)}
    for name, asked in {**ALWAYS, **preset.cannot}.items():
        if asked(config):
            raise _cannot(config, name, given.get(name))
    preset.check(config)


def refuse_unread(config: TrainingConfig, read: Collection[str]) -> None:
    """Refuse every setting that is not what it is by default, and that the trainer does not read.

    Args:
        config: the job's settings.
        read: the dotted names of those that the trainer reads.

    Raises:
        ConfigError: naming the field and its value.
    """
    # Compared with the default, not asked whether it is set: a job that was written down again
    # gives every field.
    for name, value, default in leaves(config):
        if name not in read and value != default:
            raise _cannot(config, name, value)


def leaves(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield every setting by its dotted name, its value and its default; null has but one name."""
    for name, field_info in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, field_info.get_default(call_default_factory=True)


def _cannot(config: TrainingConfig, name: str, value: Any) -> ConfigError:
    instead = "say it in command.run" if config.trainer == "command" else "use trainer: builtin"
    return ConfigError(
        f"training.{name} = {value!r}: trainer: {config.trainer} cannot do this.",
        f"Leave it out, or {instead}.",
    )


def asks_for_more_than_tokens(config: TrainingConfig) -> bool:
    """Whether the method is another one than sft and cpt, which alone are translated."""
    return not METHODS[config.method].learns_from_tokens


def asks_for_trackers(config: TrainingConfig) -> bool:
    """Whether metrics are to go anywhere but TensorBoard, which is the default and left out."""
    return bool(set(config.report_to) - {"tensorboard"})


def asks_for_a_pattern(config: TrainingConfig) -> bool:
    """Whether layers are named by a regular expression, which every project writes in its own way."""
    targets = getattr(config.peft, "target_modules", None)
    return isinstance(targets, str) and targets != ALL_LINEAR


ALWAYS = {
    "method": asks_for_more_than_tokens,
    "report_to": asks_for_trackers,
    "peft.target_modules": asks_for_a_pattern,
}
"""What no project is asked for."""


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Return settings as JSON, which is valid YAML 1.2; None is left out."""
    return json.dumps({n: v for n, v in settings.items() if v is not None}, indent=1) + "\n"
