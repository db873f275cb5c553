"""The arguments of proximal policy optimisation; a job gives them in `training.arguments`."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import TrainingArguments


@dataclass
class PPOConfig(TrainingArguments):  # type: ignore[misc] # transformers is not checked
    """What PPO has besides the arguments of transformers; defaults as Ouyang et al. 2022."""

    beta: float = 0.05
    """Weight of the penalty for each token that the reference would not have written."""
    max_completion_length: int = 256
    temperature: float = 1.0
    num_ppo_epochs: int = 4
    """How often each rollout is learnt from."""
    num_mini_batches: int = 1
    """Optimizer steps for each pass over a rollout. A rollout answers so many times
    per_device_train_batch_size × gradient_accumulation_steps prompts."""
    cliprange: float = 0.2
    """How far the probability of a token may move in one rollout, as a share."""
    cliprange_value: float = 0.2
    """How far a value may move in one rollout."""
    vf_coef: float = 0.1
    """Weight of the value head's loss."""
    gamma: float = 1.0
    """How much later rewards count."""
    lam: float = 0.95
    """1: advantages from rewards alone; 0: from the next value alone."""
    whiten_rewards: bool = False
    """Scale the rewards of a rollout to variance 1."""
    missing_eos_penalty: float | None = None
    """Taken off the score of an answer that did not come to its end."""
    remove_unused_columns: bool = False
    """Kept: reward functions read the columns."""

    def __post_init__(self) -> None:
        """Check the arguments, and work out how large a rollout is.

        Raises:
            ValueError: naming the argument.
        """
        super().__post_init__()
        for name in ("num_ppo_epochs", "num_mini_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be 1 or more")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be from 0 to 1")
        for name in ("cliprange", "cliprange_value"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be more than 0")

    @property
    def steps_per_generation(self) -> int:
        """How many batches a rollout is split into."""
        return int(self.num_mini_batches * self.gradient_accumulation_steps)
