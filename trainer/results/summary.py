"""What a training was, in words: for the report of a job, and the model card beside its result.

It says only what is known: the settings of a command are not, and of ours only those count that
reach another project.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.config import (
    DatasetConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    QuantizationConfig,
    TrainingConfig,
)
from trainer.config.command import NONE
from trainer.config.methods import METHODS
from trainer.config.peft import ALL_LINEAR, LayerSettings
from trainer.contract.metrics import GOALS, OF_METHODS
from trainer.contract.words import number
from trainer.data.tally import mix_told, reasons, remarks
from trainer.presets import PRESETS
from trainer.presets.preset import CARRIED
from trainer.results.markdown import code
from trainer.rewards.counts import noted, noted_cost

SIZES = {
    "r": "r",
    "lora_alpha": "alpha",
    "alpha": "alpha",
    "oft_block_size": "blocks of",
    "lora_dropout": "dropout",
    "vera_dropout": "dropout",
}
"""The settings of adapters that say how large they are, and what they are called in a table."""
LONGEST = 160  # characters of a command that are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A training as far as it is known: what was asked for, and what the trainer recorded."""

    config: TrainingConfig
    metrics: Mapping[str, float] = field(default_factory=dict)
    """See `trainer.contract.metrics.final_metrics`."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """See `trainer.data.tokenization.PreparedData.facts`; empty where another trainer read them."""
    made: Mapping[str, Any] = field(default_factory=dict)
    """What the trainer decided; see `trainer.training.train`. Empty for other trainers."""

    def headline(self) -> str:
        """Return one sentence: what was made, by which method, from what."""
        config = self.config
        model = code(_last_part(config.model))
        data = " and ".join(code(_last_part(one.path)) for one in config.dataset.each())
        on = f" on {data}" if config.dataset.path != NONE else ""
        if config.trainer == "command":
            base = f" from {model}" if config.model != NONE else ""
            return f"Trained by a command of your own{base}{on}."
        by = f"{METHODS[config.method].title} ({config.method})"
        through = "" if config.trainer == "builtin" else f" with {config.trainer}"
        if config.init == "random":
            return f"A new model with the config of {model}, trained by {by}{through}{on}."
        what = kind(config)
        made = f"{what[0].upper()}{what[1:]} for {model}, trained"
        if config.peft is None:
            made = f"{model}, all weights trained"
        return f"{made} by {by}{through}{on}."

    def results(self) -> dict[str, str]:
        """Return how good it is, before and after, by the name of the metric and its goal."""
        method = METHODS[self.config.method]
        own = self.config.trainer == "builtin"
        losses = ["eval_loss", "train_loss"]
        others = [name for plain in OF_METHODS for name in (f"eval_{plain}", plain)]
        generates = own and method.generates  # there rewards count, and the loss says little
        rows: dict[str, str] = {}
        for name in [*others, *losses] if generates else [*losses, *others]:
            goal = "" if generates and name in losses else GOALS[_plain(name)]
            rows |= self._result(name, goal)
            if name == "eval_loss":
                for each in self._losses_of_sources():
                    rows |= self._result(each, goal)
            if name == "eval_loss" and own and method.learns_from_tokens:
                rows |= self._perplexity()
        best, step = (self.metrics.get(f"eval_loss_best{x}") for x in ("", "_step"))
        last = self.metrics.get("eval_loss")
        if best is not None and step and last is not None and best < last:
            rows["best eval_loss"] = f"{number(best)} at step {number(int(step))}"
        return rows

    def _losses_of_sources(self) -> list[str]:
        """Return the names of the evaluation losses of several data sets."""
        names = [f"eval_{source['name']}_loss" for source in self.data.get("sources", ())]
        return [name for name in names if name in self.metrics]

    def settings(self) -> dict[str, str]:
        """Return method, model, data and hyperparameters, by name."""
        config = self.config
        if config.trainer == "command":
            return _of_command(config)
        rows = {
            "trainer": (config.trainer if config.trainer != "builtin" else "", ["trainer"]),
            "method": (f"{METHODS[config.method].title} ({config.method})", ["method"]),
            "trained": (self._trained(), ["peft"]),
            "base model": (code(_tidy(config.model)), ["model"]),
            "dataset": (_dataset(config), ["dataset.path"]),
            "held-out data": (_held_out(config), ["dataset.eval_path"]),
            "rows": (self._rows(), ["dataset.path"]),
            "mixed": ("; ".join(mix_told(self.data)), ["dataset.path"]),
            "length": (self._length(), ["num_train_epochs", "max_steps"]),
            "batch": (self._batch(), ["per_device_train_batch_size"]),
            "learning rate": (self._learning_rate(), ["learning_rate"]),
            **_of_adapters(config),
            "max length": (_max_length(config), ["max_length"]),
            **_of_method(config),
            "judge": (noted_cost(self.made), ["reward_judge"]),
            "optimizer": (_optimizer(config), ["optim", "weight_decay"]),
            "precision": (str(self.made.get("dtype", "")), ["dtype"]),
            "further arguments": (_pairs(config.arguments), ["arguments"]),
            "seed": (str(config.seed), ["seed"]),
        }
        known = _reaching(config)
        return {
            name: value
            for name, (value, needs) in rows.items()
            if value and (known is None or known.issuperset(needs))
        }

    def warnings(self) -> list[str]:
        """Return what a person should know before using the result, as sentences."""
        found = []
        if dropped := self.data.get("dropped"):
            why = self.data.get("why")
            because = (
                reasons(why)
                if isinstance(why, Mapping)
                else "nothing in them can be learned within max_length"
            )
            found.append(
                f"{number(dropped)} of {number(self.data.get('rows'))} rows were dropped with "
                f"max_length = {self.config.max_length} tokens ({because})."
            )
        found += remarks(self.data)
        found += noted(self.made)
        if (parts := self._count("batch_divisor")) > 1:
            found.append(
                f"Memory ran out: each batch was split into {parts} parts. The effective batch "
                "stayed the same."
            )
        if (factor := self.made.get("learning_rate_factor", 1.0)) < 1:
            found.append(
                f"The loss diverged: training went back to a checkpoint and continued with "
                f"{number(factor)} of the learning rate."
            )
        first, last = self._before("eval_loss"), self.metrics.get("eval_loss")
        if not METHODS[self.config.method].generates and first and last and last > first:
            found.append(
                f"The evaluation loss rose from {number(first)} to {number(last)}: on the held-out "
                "rows the result is worse than the base model."
            )
        return found

    def _count(self, name: str) -> int:
        """Return one of the trainer's counts; a machine may have written anything."""
        return max(1, int(self.made.get(name, 1)))

    def _before(self, name: str) -> float | None:
        """Return a metric before training; an evaluation after some steps is not before it."""
        if name.startswith("eval_") and not (
            self.config.trainer == "builtin" and self.config.eval_on_start
        ):
            return None
        return self.metrics.get(f"{name}_first")

    def _result(self, name: str, goal: str) -> dict[str, str]:
        after = self.metrics.get(name)
        if after is None:
            return {}
        label = f"{name} ({goal})" if goal else name
        return {label: _change(self._before(name), after)}

    def _perplexity(self) -> dict[str, str]:
        before, after = self._before("eval_loss"), self.metrics.get("eval_loss")
        if after is None or after >= 100:
            return {}
        first = math.exp(before) if before is not None and before < 100 else None
        return {"perplexity (lower is better)": _change(first, math.exp(after))}

    def _trained(self) -> str:
        counts = [self.made.get(name) for name in ("trainable_parameters", "parameters")]
        if all(isinstance(count, int) for count in counts):
            trained, total = counts
            return f"{kind(self.config)}: {number(trained)} of {number(total)} parameters"
        return kind(self.config)

    def _rows(self) -> str:
        words = {
            "train_rows": "trained on",
            "eval_rows": "held out",
            "dropped": "dropped",
            "truncated": "cut at max length",
        }
        counts = [f"{number(self.data[n])} {w}" for n, w in words.items() if n in self.data]
        laid_out = f"; format {self.data['format']}" if self.data.get("format") else ""
        return f"{', '.join(counts)}{laid_out}" if counts else ""

    def _length(self) -> str:
        config, steps = self.config, int(self.metrics.get("steps", 0))
        epochs = f"{number(float(config.num_train_epochs))} epochs"
        planned = "" if config.max_steps > 0 else f"up to {epochs}"
        if planned and config.early_stopping_patience is None:
            planned = epochs
        done = f"{number(steps)} steps" if steps else ""
        kept = self.made.get("weights_of_step")
        of_best = f"the result has the weights of step {number(kept)}" if kept else ""
        return ", ".join(part for part in (done, planned, of_best) if part)

    def _batch(self) -> str:
        if self.config.trainer != "builtin":  # how many processes it starts is its own matter
            return batch_in_words(self.config, 1)
        return batch_in_words(self.config, self._count("processes"), self._count("batch_divisor"))

    def _learning_rate(self) -> str:
        config = self.config
        factor = self.made.get("learning_rate_factor", 1.0)
        warmup = config.warmup_steps
        unit = "of the steps" if 0 < warmup < 1 else "steps"
        share = f"{100 * warmup:g} %" if 0 < warmup < 1 else f"{warmup:g}"
        return (
            f"{number(config.initial_learning_rate * factor)}, {config.lr_scheduler_type} schedule"
            + (f", warmup {share} {unit}" if warmup else "")
        )


def kind(config: TrainingConfig) -> str:
    """Return what is trained: a LoRA adapter, a soft prompt of 20 tokens, all weights, …"""
    match config.peft:
        case LoraConfig(use_dora=dora, use_rslora=ranked):
            quantised = "Q" if config.quantization else ""
            return f"{'rank-stabilised ' if ranked else ''}{quantised}{'DoRA' if dora else 'LoRA'} adapter"
        case LayerSettings(title=title):
            return f"{title} adapter"
        case PromptTuningConfig(num_virtual_tokens=count):
            return f"soft prompt of {count} tokens (prompt tuning)"
        case PrefixTuningConfig(num_virtual_tokens=count):
            return f"prefix of {count} keys and values in each layer (prefix tuning)"
        case _:
            return "all weights"


def batch_in_words(config: TrainingConfig, processes: int, divisor: int = 1) -> str:
    """Return how many examples an optimizer step has, and why.

    Args:
        config: the config.
        processes: how many train.
        divisor: see `Status.batch_divisor`.
    """
    batch = config.per_device_train_batch_size // divisor
    accumulation = config.gradient_accumulation_steps * divisor
    factors = f"{batch} per device × {accumulation} accumulated"
    several = f" × {processes} processes" if processes > 1 else ""
    return f"{batch * accumulation * processes} examples: {factors}{several}"


def _tidy(path: str) -> str:
    """Return a path without detours such as a/../b."""
    # Only absolute paths: a name of the Hub must stay as it is.
    return os.path.normpath(path) if path.startswith("/") else path


def _last_part(path: str) -> str:
    """Return the name of a file or folder, and a name of the Hub in full."""
    return path.rstrip("/").rpartition("/")[2] if path.startswith(("/", "~", ".")) else path


def _change(before: float | None, after: float) -> str:
    return f"{number(before)} → {number(after)}" if before is not None else number(after)


def _plain(name: str) -> str:
    return name if name in GOALS else name.removeprefix("eval_")


def _reaching(config: TrainingConfig) -> frozenset[str] | None:
    """Return the settings that reach another project; None: all of them."""
    if config.trainer == "builtin":
        return None
    return CARRIED | PRESETS[config.trainer].translates


def _of_command(config: TrainingConfig) -> dict[str, str]:
    command = config.command
    if command is None:
        return {}
    run = command.run if isinstance(command.run, str) else " ".join(command.run)
    short = run if len(run) <= LONGEST else f"{run[:LONGEST]}…"
    used = f"{run} {' '.join(command.resume)} {' '.join(command.env.values())}"
    rows = {"command": code(short)}
    for label, value in (("base model", config.model), ("dataset", config.dataset.path)):
        rows |= {label: code(value)} if value != NONE else {}
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "seed"):
        if f"{{{name}}}" in used:
            rows[name] = str(getattr(config, name))
    return rows


def _dataset(config: TrainingConfig) -> str:
    return "; ".join(_one_dataset(one) for one in config.dataset.each())


def _one_dataset(dataset: DatasetConfig) -> str:
    subset = f", subset {code(dataset.subset)}" if dataset.subset else ""
    most = f", at most {number(dataset.max_rows)} rows" if dataset.max_rows else ""
    return f"{code(_tidy(dataset.path))}{subset}{most}"


def _held_out(config: TrainingConfig) -> str:
    found = []
    for dataset in config.dataset.each():
        of = f"split {code(dataset.eval_split)}" if dataset.eval_split else ""
        found.append(", ".join(part for part in (code(dataset.eval_path or ""), of) if part))
    return "; ".join(part for part in found if part)


def _of_adapters(config: TrainingConfig) -> dict[str, tuple[str, list[str]]]:
    rows: dict[str, tuple[str, list[str]]] = {}
    peft = config.peft
    if isinstance(peft, LoraConfig | LayerSettings):
        targets = peft.target_modules
        where = targets if isinstance(targets, list) else [code(targets)]
        where = ["all linear layers"] if targets == ALL_LINEAR else where
        sizes = [
            f"{words} {getattr(peft, name):g}"
            for name, words in SIZES.items()
            if getattr(peft, name, 0)
        ]
        saved = f"; trained in full: {', '.join(peft.modules_to_save or [])}"
        words = "; ".join(part for part in (", ".join(sizes), ", ".join(where)) if part)
        rows[peft.title] = (words + (saved if peft.modules_to_save else ""), ["peft.r"])
    if config.new_tokens:
        rows["new tokens"] = (", ".join(map(code, config.new_tokens)), ["new_tokens"])
    if config.quantization:
        needs = [f"quantization.load_in_{config.quantization.bits}bit"]
        rows["quantization"] = (_quantization(config.quantization), needs)
    return rows


def _quantization(quantization: QuantizationConfig) -> str:
    if quantization.load_in_8bit:
        return "8 bits"
    twice = ", double quantization" if quantization.bnb_4bit_use_double_quant else ""
    return f"4 bits ({quantization.bnb_4bit_quant_type}{twice})"


def _max_length(config: TrainingConfig) -> str:
    return f"{number(config.max_length)} tokens{', packed' if config.packs else ''}"


def _of_method(config: TrainingConfig) -> dict[str, tuple[str, list[str]]]:
    rows: dict[str, tuple[str, list[str]]] = {}
    if config.beta is not None:
        rows["beta"] = (f"{config.beta:g}", ["beta"])
    if config.loss_type:
        rows["loss type"] = (config.loss_type, ["loss_type"])
    if METHODS[config.method].generates:
        each = f"{config.num_generations} per prompt, " if config.num_generations else ""
        longest = f"up to {number(config.max_completion_length)} tokens"
        rows["answers"] = (f"{each}{longest}, temperature {config.temperature:g}", ["temperature"])
        scorers = [
            *config.reward_functions,
            *([config.reward_model] if config.reward_model else []),
        ]
        judge = [f"the judge {code(config.reward_judge.model)}"] if config.reward_judge else []
        rows["scored by"] = (", ".join([*map(code, scorers), *judge]), ["reward_functions"])
    return rows


def _optimizer(config: TrainingConfig) -> str:
    decay = f", weight decay {config.weight_decay:g}" if config.weight_decay else ""
    return f"{config.optim}{decay}"


def _pairs(arguments: Mapping[str, Any]) -> str:
    return ", ".join(code(f"{name}: {value}") for name, value in arguments.items())
