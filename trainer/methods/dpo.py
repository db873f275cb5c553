"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290), by TRL's DPOTrainer.

The reference is the model without its adapters; where all weights are trained, a second copy. What
it says of a pair is computed once; see `trainer.methods.reference`.
"""

from __future__ import annotations

from transformers import Trainer
from trl import DPOTrainer

from trainer.engine.job_trainer import TrainingRun
from trainer.methods.assembly import assemble
from trainer.methods.likelihoods import prove_likelihoods
from trainer.methods.reference import RememberingTrainer


def build(run: TrainingRun) -> Trainer:
    """Return the trainer for one run; its data are prompts with a better and a worse answer."""
    config = run.config
    trainer = assemble(
        run,
        DPOTrainer,
        mixin=RememberingTrainer,
        max_length=config.max_length,
        beta=config.beta,
        # DPO takes a list of losses, to be weighted and added up; None leaves the default.
        loss_type=config.loss_type and [config.loss_type],
    )
    prove_likelihoods(run, trainer, "chosen_ids")
    return trainer
