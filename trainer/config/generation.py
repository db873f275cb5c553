"""What settings of grpo, rloo and ppo must agree on, told before anything is trained."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from trainer.custom_code import is_reference
from trainer.methods import METHODS
from trainer.rewards import BUILTIN

if TYPE_CHECKING:
    from trainer.config.training import TrainingConfig

NUM_GENERATIONS = {"grpo": 8, "rloo": 2}
"""The methods that compare answers to one prompt, and how many where nothing is said."""


def check_generation(config: TrainingConfig) -> None:
    """Refuse settings that do not fit the method, or each other.

    Raises:
        ValueError: one sentence with the field, its value and the remedy.
    """
    if not METHODS[config.method].generates:
        return
    if not config.reward_functions and not config.reward_model:
        raise ValueError(
            f"{config.method} needs to know which answers are good: "
            f"set reward_functions (such as {_names()}, or path.py:function) or reward_model"
        )
    for name in config.reward_functions:
        _check_name(name)
    if config.max_completion_length >= config.max_length:
        raise ValueError(
            f"max_completion_length = {config.max_completion_length} leaves no room for a prompt "
            f"in max_length = {config.max_length}: lower the one or raise the other"
        )
    if config.method in NUM_GENERATIONS:
        _check_batches(config)


def generation_arguments(config: TrainingConfig) -> dict[str, Any]:
    """Return the arguments of a method that generates, None where its own default is wanted."""
    arguments = {
        "beta": config.beta,
        "max_completion_length": config.max_completion_length,
        "temperature": config.temperature,
        "num_generations": config.num_generations,
    }
    return {name: value for name, value in arguments.items() if value is not None}


def uses_of_prompt(config: TrainingConfig) -> int:
    """Return how many answers to a prompt are learnt from in an epoch, counting every pass."""
    if config.method == "ppo":
        return int(config.arguments.get("num_ppo_epochs", 4))
    answers = config.num_generations or NUM_GENERATIONS.get(config.method, 1)
    return int(answers * config.arguments.get("num_iterations", 1))


def _check_name(name: str) -> None:
    if is_reference(name) or name in BUILTIN:
        return
    close = difflib.get_close_matches(name, BUILTIN, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ValueError(
        f"reward_functions: {name!r} is not a reward function; {hint}"
        f"There are: {_names()}; your own is path.py:function"
    )


def _check_batches(config: TrainingConfig) -> None:
    answers = config.num_generations or NUM_GENERATIONS[config.method]
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
    if batch % answers:
        raise ValueError(
            f"per_device_train_batch_size × gradient_accumulation_steps = {batch} must be a "
            f"multiple of num_generations = {answers}, so that all answers to a prompt are in one "
            "batch: change one of them"
        )
    held_out = config.dataset.eval_path or config.dataset.eval_fraction
    if held_out and config.per_device_eval_batch_size % answers:
        raise ValueError(
            f"per_device_eval_batch_size = {config.per_device_eval_batch_size} must be a multiple "
            f"of num_generations = {answers}: change one of them"
        )


def _names() -> str:
    return ", ".join(BUILTIN)
