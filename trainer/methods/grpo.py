"""Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300).

An answer is good when its reward is above the mean of all answers to its prompt.
By TRL's GRPOTrainer.
"""

from __future__ import annotations

from transformers import Trainer
from trl import GRPOTrainer

from trainer.engine.job_trainer import TrainingRun
from trainer.methods.online import build_online


def build(run: TrainingRun) -> Trainer:
    """Return the trainer for one run; its data are prompts, and columns for the rewards."""
    return build_online(run, GRPOTrainer, loss_type=run.config.loss_type)
