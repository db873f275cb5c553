"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306), by TRL's KTOTrainer."""

from __future__ import annotations

from transformers import Trainer
from trl import KTOTrainer

from trainer.engine.job_trainer import TrainingRun
from trainer.methods.assembly import assemble
from trainer.methods.likelihoods import prove_likelihoods
from trainer.methods.prepared import PreparedKTOTrainer


def build(run: TrainingRun) -> Trainer:
    """Return the trainer for one run; its data are prompts with an answer and its label."""
    config = run.config
    trainer = assemble(
        run,
        KTOTrainer,
        mixin=PreparedKTOTrainer,
        max_length=config.max_length,
        beta=config.beta,
        loss_type=config.loss_type,
    )
    prove_likelihoods(run, trainer, "completion_ids")
    return trainer
