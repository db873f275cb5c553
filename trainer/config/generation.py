"""The settings of grpo, rloo and ppo as these methods take them."""

from __future__ import annotations

from typing import Any

from trainer.config.methods import NUM_GENERATIONS
from trainer.config.training import TrainingConfig


def generation_arguments(config: TrainingConfig) -> dict[str, Any]:
    """Return the arguments of a method that generates; unset ones are left to its own defaults."""
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
        # The default of PPOConfig, which cannot be imported here: it needs transformers.
        return int(config.arguments.get("num_ppo_epochs", 4))
    answers = config.num_generations or NUM_GENERATIONS.get(config.method, 1)
    return int(answers * config.arguments.get("num_iterations", 1))
