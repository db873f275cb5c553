"""Settings that only some methods have: what the chosen one would not read is refused."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING

from trainer.config.generation import NUM_GENERATIONS
from trainer.methods import METHODS

if TYPE_CHECKING:
    from trainer.config.training import TrainingConfig

HAS: dict[str, Callable[[str], bool]] = {
    "beta": lambda method: METHODS[method].has_beta,
    "loss_type": lambda method: bool(METHODS[method].losses),
    "packing": lambda method: METHODS[method].learns_from_tokens,
    "assistant_only_loss": lambda method: METHODS[method].learns_from_tokens,
    "reward_functions": lambda method: METHODS[method].generates,
    "reward_model": lambda method: METHODS[method].generates,
    "num_generations": lambda method: method in NUM_GENERATIONS,
    "max_completion_length": lambda method: METHODS[method].generates,
    "temperature": lambda method: METHODS[method].generates,
}
"""The settings, and which methods have them."""


def check_own_settings(config: TrainingConfig) -> None:
    """Refuse settings that the method does not have, and a loss that it does not know.

    Raises:
        ValueError: one sentence with the field, its value and the remedy.
    """
    for name, has in HAS.items():
        # Values are compared: a job that was written down again gives every field.
        default = type(config).model_fields[name].get_default(call_default_factory=True)
        if getattr(config, name) != default and not has(config.method):
            raise ValueError(f"{name} is nothing that {config.method} has: remove it")
    if config.loss_type is not None:
        _check_loss(config.method, config.loss_type, config.arguments.get("label_smoothing"))


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
            "loss_type = 'exo_pair' needs to doubt the labels a little: "
            "set arguments: {label_smoothing: 0.001}"
        )
