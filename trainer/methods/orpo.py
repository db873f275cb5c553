"""Odds ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691), by TRL's ORPOTrainer.

It needs no reference model. The trainer is one of TRL's experiments, so TRL is pinned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.engine.job_trainer import TrainingRun
from trainer.methods.assembly import assemble

if TYPE_CHECKING:
    from transformers import Trainer


def build(run: TrainingRun) -> Trainer:
    """Return the trainer for one run; its data are prompts with a better and a worse answer."""
    from trl.experimental.orpo import ORPOTrainer

    config = run.config
    return assemble(run, ORPOTrainer, max_length=config.max_length, beta=config.beta)
