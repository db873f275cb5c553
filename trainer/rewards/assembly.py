"""Put a job's reward functions together."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from pathlib import Path
from typing import Any

from trainer.config import TrainingConfig
from trainer.config.code_references import is_reference, split_reference
from trainer.config.rewards import BUILTIN_REWARDS
from trainer.contract.errors import ConfigError
from trainer.engine.custom_code import load
from trainer.rewards.builtin import FUNCTIONS
from trainer.rewards.checked import FIELD, CheckedReward, Reward
from trainer.rewards.counts import Counts
from trainer.rewards.judge import Judge, check_template
from trainer.rewards.sandbox import Sandbox
from trainer.rewards.scorer import Scorer


def rewards_of(
    config: TrainingConfig,
    columns: Collection[str],
    device: Any,
    *,
    cache: Path,
    counts: Counts,
) -> list[Reward]:
    """Return what scores the answers of a job.

    Args:
        config: the config.
        columns: those of the dataset.
        device: where a reward model runs.
        cache: the folder where a judge's answers are kept.
        counts: what scoring comes to.

    Raises:
        ConfigError: a function or the judge needs a column that the dataset does not have, or
            the judge's key is not there.
        CodeError: a function cannot be loaded.
    """
    check_columns(config, columns)
    rewards: list[Reward] = []
    for text in config.reward_functions:
        if is_reference(text) and config.reward_sandbox:
            rewards.append(Sandbox(text, config.reward_sandbox, counts))
        elif is_reference(text):
            path, name = split_reference(text, "reward_functions")
            rewards.append(CheckedReward(load(text, "reward_functions"), name, path))
        else:
            rewards.append(_builtin(text))
    if config.reward_model:
        rewards.append(Scorer(config.reward_model, device))
    if config.reward_judge:
        rewards.append(Judge(config.reward_judge, columns, cache, counts))
    return rewards


def check_columns(config: TrainingConfig, columns: Collection[str]) -> None:
    """Refuse what scores answers by a column that no row has.

    Args:
        config: the config.
        columns: those of the dataset.

    Raises:
        ConfigError: naming what lacks which column.
    """
    for name in config.reward_functions:
        for column in BUILTIN_REWARDS.get(name, ()):
            if column not in columns:
                raise ConfigError(
                    f"{FIELD}: {name} compares with the column {column!r}, and the dataset has "
                    f"{', '.join(sorted(columns))}.",
                    f"Add the column {column!r}, or choose another reward function.",
                )
    if config.reward_judge:
        check_template(config.reward_judge, columns)


def _builtin(name: str) -> Reward:
    function = FUNCTIONS[name]
    reward = CheckedReward(function, name, Path(inspect.getfile(function)))
    reward.__doc__ = function.__doc__
    return reward
