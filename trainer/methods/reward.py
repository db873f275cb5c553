"""Reward modelling (Ouyang et al. 2022, arXiv:2203.02155), by TRL's RewardTrainer.

The model has one score in place of its vocabulary; it learns that the better answer has more.
"""

from __future__ import annotations

from transformers import Trainer
from trl import RewardTrainer

from trainer.engine.job_trainer import TrainingRun
from trainer.methods.assembly import assemble
from trainer.methods.prepared import PreparedTrainer


def build(run: TrainingRun) -> Trainer:
    """Return the trainer for one run; its data are prompts with a better and a worse answer."""
    return assemble(run, RewardTrainer, mixin=PreparedTrainer, max_length=run.config.max_length)
