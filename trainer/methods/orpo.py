"""Odds ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691), by TRL's ORPOTrainer.

It needs no reference model. The trainer is one of TRL's experiments, so TRL is pinned.
"""

from __future__ import annotations

from transformers import Trainer
from trl.experimental.orpo import ORPOTrainer

from trainer.engine.job_trainer import TrainingRun
from trainer.methods.assembly import assemble
from trainer.methods.prepared import PreparedORPOTrainer


def build(run: TrainingRun) -> Trainer:
    """Return the trainer for one run; its data are prompts with a better and a worse answer."""
    config = run.config
    return assemble(
        run,
        ORPOTrainer,
        mixin=PreparedORPOTrainer,
        max_length=config.max_length,
        beta=config.beta,
    )
