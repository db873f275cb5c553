"""Reward modelling (Ouyang et al. 2022, arXiv:2203.02155), by TRL's RewardTrainer.

The model has one score in place of its vocabulary; it learns that the better answer has more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.engine.job_trainer import TrainingRun
from trainer.methods.assembly import assemble

if TYPE_CHECKING:
    from transformers import Trainer


def build(run: TrainingRun) -> Trainer:
    """Return the trainer for one run; its data are prompts with a better and a worse answer."""
    from trl import RewardTrainer

    return assemble(run, RewardTrainer, max_length=run.config.max_length)
