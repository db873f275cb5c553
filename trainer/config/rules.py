"""Which settings of a training go together. Each rule refuses with one sentence.

A rule raises ValueError, naming the field, its value and the remedy; pydantic reports it together
with whatever else is wrong in the job.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from trainer.config.argument_kinds import wrong_kind
from trainer.config.argument_table import refusal
from trainer.config.code_references import is_reference
from trainer.config.command import FOREIGN_DATA, CommandConfig
from trainer.config.dataset import check_place
from trainer.config.methods import METHODS, NUM_GENERATIONS
from trainer.config.rewards import BUILTIN_REWARDS
from trainer.config.training_fields import TrainingFields
from trainer.config.weight_rules import check_weights

HAS: dict[str, Callable[[str], bool]] = {
    "beta": lambda method: METHODS[method].has_beta,
    "loss_type": lambda method: bool(METHODS[method].losses),
    "packing": lambda method: METHODS[method].learns_from_tokens,
    "assistant_only_loss": lambda method: METHODS[method].learns_from_tokens,
    "learn": lambda method: method == "sft",
    "labels": lambda method: METHODS[method].has_classes,
    "several_labels": lambda method: METHODS[method].has_classes,
    "class_weights": lambda method: METHODS[method].has_classes,
    "reward_functions": lambda method: METHODS[method].generates,
    "reward_model": lambda method: METHODS[method].generates,
    "reward_judge": lambda method: METHODS[method].generates,
    "reward_sandbox": lambda method: METHODS[method].generates,
    "num_generations": lambda method: method in NUM_GENERATIONS,
    "max_completion_length": lambda method: METHODS[method].generates,
    "temperature": lambda method: METHODS[method].generates,
}
"""The settings, and which methods have them."""
STREAMS = ("sft", "cpt", "dpo", "reward")
"""The methods that take rows one after another; TRL prepares those of others as a whole."""


def check(config: TrainingFields) -> None:
    """Apply every rule.

    Raises:
        ValueError: one sentence with the field, its value and the remedy.
    """
    check_trainer(config)
    check_consistency(config)
    check_places(config)
    check_streaming(config)
    check_own_settings(config)
    check_arguments(config)
    check_weights(config)
    check_generation(config)
    check_classes(config)
    check_outputs(config)


def check_consistency(config: TrainingFields) -> None:
    """Refuse settings that contradict each other."""
    held_out = config.dataset.holds_out
    if config.early_stopping_patience and not held_out:
        raise ValueError(
            "early_stopping_patience needs held-out rows: "
            "set dataset.eval_fraction, dataset.eval_path or dataset.eval_split"
        )
    # TRL estimates KL from mismatched pairs within the batch: of a single row there are none.
    if config.method == "kto" and config.per_device_train_batch_size < 2:
        raise ValueError(
            "kto compares the rows of a batch: set per_device_train_batch_size to 2 or more"
        )
    if config.padding_free and config.method not in {"sft", "cpt"}:
        raise ValueError(f"padding_free is for sft: {config.method} has its own batches")
    if config.init == "random" and config.peft:
        raise ValueError("init: random has no weights to adapt: set peft: null")


def check_places(config: TrainingFields) -> None:
    """Refuse addresses of data that cannot be relied on; a command reads its data itself.

    Raises:
        ValueError: naming the field, its value and the remedy.
    """
    if config.trainer in FOREIGN_DATA:
        return
    for source in config.dataset.each():
        check_place("path", source.path, source.sha256)
        check_place("eval_path", source.eval_path or "", source.eval_sha256)


def check_streaming(config: TrainingFields) -> None:
    """Refuse what needs all rows at once, where they come one after another.

    Raises:
        ValueError: naming the setting and what to do instead.
    """
    dataset = config.dataset
    if not dataset.streaming or config.trainer != "builtin":  # which refuses it by name
        return
    if config.method not in STREAMS:
        raise ValueError(
            f"dataset.streaming: method {config.method} needs all rows at once; it is for "
            f"{', '.join(STREAMS)}. Set streaming: false"
        )
    if config.max_steps < 1:
        raise ValueError(
            "dataset.streaming: how many rows there are is not known before they are read, so "
            "num_train_epochs says nothing: set max_steps"
        )
    if fraction := max(source.eval_fraction for source in dataset.each()):
        raise ValueError(
            f"dataset.eval_fraction = {fraction}: a part of a stream cannot be drawn: name "
            "the rows to evaluate on in eval_path or eval_split"
        )
    for name, value in (("train_sampling_strategy", "random"), ("precompute_ref_log_probs", False)):
        if config.arguments.get(name, value) != value:
            raise ValueError(
                f"arguments.{name} = {config.arguments[name]!r} needs all rows at once: remove it, or "
                "set dataset.streaming: false"
            )


def check_own_settings(config: TrainingFields) -> None:
    """Refuse settings that the method does not have, and a loss that it does not know.

    Raises:
        ValueError: one sentence with the field, its value and the remedy.
    """
    for name, has in HAS.items():
        # Values are compared: a job that was written down again gives every field.
        default = type(config).model_fields[name].get_default(call_default_factory=True)
        if getattr(config, name) != default and not has(config.method):
            raise ValueError(f"{name} does not apply to method {config.method}: remove it")
    if config.loss_type is not None:
        _check_loss(config.method, config.loss_type, config.arguments.get("label_smoothing"))


def check_arguments(config: TrainingFields) -> None:
    """Refuse arguments that would have no effect, or that the method does not have.

    Raises:
        ValueError: naming the argument, its value and what to do instead.
    """
    if config.trainer != "builtin":  # they are that trainer's own
        return
    fields = set(type(config).model_fields)
    refused = [
        f"arguments.{name} = {value!r}: {why}"
        for name, value in config.arguments.items()
        if (why := refusal(name, config.method, fields) or wrong_kind(name, value))
    ]
    if refused:
        raise ValueError("; ".join(refused))
    if config.lr_scheduler_type == "reduce_lr_on_plateau":
        raise ValueError(
            "lr_scheduler_type = 'reduce_lr_on_plateau' follows the evaluations of transformers, of "
            "which there are none here, so the rate would stay as it is: choose cosine or linear, "
            "and early_stopping_patience to end on a plateau"
        )


def _check_loss(method: str, loss: str, label_smoothing: float | None) -> None:
    known = METHODS[method].losses
    if loss not in known:
        close = difflib.get_close_matches(loss, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(
            f"loss_type = {loss!r} is not a loss of {method}; {hint}There are: {', '.join(known)}"
        )
    if loss == "exo_pair" and not label_smoothing:
        raise ValueError(
            "loss_type = 'exo_pair' needs a little label smoothing: "
            "set arguments: {label_smoothing: 0.001}"
        )


def check_generation(config: TrainingFields) -> None:
    """Refuse settings that do not fit the method, or each other.

    Raises:
        ValueError: one sentence with the field, its value and the remedy.
    """
    if not METHODS[config.method].generates:
        return
    if not (config.reward_functions or config.reward_model or config.reward_judge):
        raise ValueError(
            f"{config.method} needs to know which answers are good: set reward_functions (such as "
            f"{_names()}, or path.py:function), reward_model or reward_judge"
        )
    for name in config.reward_functions:
        _check_name(name)
    if config.reward_sandbox and not any(map(is_reference, config.reward_functions)):
        raise ValueError(
            "reward_sandbox is for reward functions of your own, and there are none: remove it, or "
            "name one in reward_functions as path.py:function"
        )
    if config.max_completion_length >= config.max_length:
        raise ValueError(
            f"max_completion_length = {config.max_completion_length} leaves no room for a prompt "
            f"in max_length = {config.max_length}: lower one or raise the other"
        )
    if config.parallelism != "ddp":
        raise ValueError(
            f"parallelism: {config.method} writes answers with the whole model, and "
            f"{config.parallelism} splits it: set parallelism: ddp"
        )
    if config.method in NUM_GENERATIONS:
        _check_batches(config)


def check_classes(config: TrainingFields) -> None:
    """Refuse classes that contradict each other.

    Raises:
        ValueError: one sentence with the field, its value and the remedy.
    """
    labels = config.labels
    if labels is not None and (len(labels) < 2 or len(set(labels)) < len(labels)):
        raise ValueError(f"labels = {labels}: give two or more, each once")
    if config.several_labels and config.class_weights:
        raise ValueError(
            "class_weights: with several_labels each class is learned apart: leave it out"
        )
    if not isinstance(config.class_weights, dict):
        return
    if wrong := [name for name, weight in config.class_weights.items() if not weight > 0]:
        raise ValueError(f"class_weights.{wrong[0]} must be above 0")
    if labels and (unknown := sorted(set(config.class_weights) - set(labels))):
        raise ValueError(f"class_weights.{unknown[0]} is not one of labels: correct the name")


def _check_name(name: str) -> None:
    if is_reference(name) or name in BUILTIN_REWARDS:
        return
    close = difflib.get_close_matches(name, BUILTIN_REWARDS, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ValueError(
        f"reward_functions: {name!r} is not a reward function; {hint}"
        f"There are: {_names()}; your own is path.py:function"
    )


def _check_batches(config: TrainingFields) -> None:
    answers = config.num_generations or NUM_GENERATIONS[config.method]
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
    if batch % answers:
        raise ValueError(
            f"per_device_train_batch_size × gradient_accumulation_steps = {batch} must be a "
            f"multiple of num_generations = {answers}, so that all answers to a prompt are in one "
            "batch: change one of them"
        )
    held_out = config.dataset.holds_out
    if held_out and config.per_device_eval_batch_size % answers:
        raise ValueError(
            f"per_device_eval_batch_size = {config.per_device_eval_batch_size} must be a multiple "
            f"of num_generations = {answers}: change one of them"
        )


def _names() -> str:
    return ", ".join(BUILTIN_REWARDS)


def check_outputs(config: TrainingFields) -> None:
    """Refuse what cannot come of this training.

    Raises:
        ValueError: one sentence with the field, its value and the remedy.
    """
    if config.trainer != "builtin":
        for name in ("merge", "export", "push_to_hub"):
            if getattr(config, name):
                raise ValueError(f"{name} works with trainer: builtin only: leave it out")
    if config.merge and config.peft is None:
        raise ValueError("merge: peft: null leaves a whole model, no adapter: set merge: false")
    if config.peft and config.peft.is_soft_prompt and (config.merge or config.export):
        field = "merge" if config.merge else "export"
        raise ValueError(
            f"{field}: peft_type {config.peft.peft_type} trains tokens before the text, and there is "
            f"nothing in the weights to merge: leave {field} out, or choose another peft_type"
        )
    if config.export and METHODS[config.method].is_classifier:
        gives = "classes" if METHODS[config.method].has_classes else "a score"
        raise ValueError(
            f"export: gguf is for models that write text, and {config.method} gives {gives}"
        )


def check_trainer(config: TrainingFields) -> None:
    """Refuse settings of a command that do not belong to this trainer, or are missing.

    Raises:
        ValueError: naming the field.
    """
    trainer, command = config.trainer, config.command
    if trainer != "builtin" and config.dataset.sources:
        raise ValueError(
            f"dataset: several data sets are mixed for trainer: builtin alone, not for {trainer}: "
            "make one file of them, or use trainer: builtin"
        )
    if trainer == "builtin" and command is not None:
        raise ValueError("command needs a trainer that runs it: set trainer: command")
    if trainer == "command" and not (command and command.run):
        raise ValueError("trainer: command needs command.run, the command that trains")
    if trainer not in {"builtin", "command"} and command:
        translated = {"run", "files", "env", "stop_signal"}
        plain = CommandConfig()  # a job that was written out again gives every field
        given = {n for n in CommandConfig.model_fields if getattr(command, n) != getattr(plain, n)}
        if extra := sorted(given - translated):
            raise ValueError(f"command.{extra[0]} is what trainer: {trainer} sets by itself")
