"""Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347), as Ouyang et al. 2022.

TRL has none since 1.13, so this one is ours; see `trainer.methods.ppo_parts`.
"""

from __future__ import annotations

from transformers import Trainer

from trainer.engine.job_trainer import TrainingRun
from trainer.methods.online import RolloutTrainer, build_online
from trainer.methods.ppo_parts.trainer import PPOTrainer


def build(run: TrainingRun) -> Trainer:
    """Return the trainer for one run; its data are prompts, and columns for the rewards."""
    goes_on = {"goes_on": run.config.adapter is not None}
    return build_online(run, PPOTrainer, RolloutTrainer, trainer_options=goes_on)
