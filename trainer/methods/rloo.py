"""REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv:2402.14740).

An answer is good when its reward is above the mean of the other answers to its prompt.
By TRL's RLOOTrainer.
"""

from __future__ import annotations

from transformers import Trainer
from trl import RLOOTrainer

from trainer.engine.job_trainer import TrainingRun
from trainer.methods.online import build_online


def build(run: TrainingRun) -> Trainer:
    """Return the trainer for one run; its data are prompts, and columns for the rewards."""
    return build_online(run, RLOOTrainer)
