"""Odds ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691), by TRL's ORPOTrainer.

It needs no reference model. The trainer is one of TRL's experiments, so TRL is pinned.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from transformers import Trainer
from trl.experimental.orpo import ORPOTrainer

from trainer.data.chats import NO_LOSS
from trainer.engine.job_trainer import TrainingRun
from trainer.methods.assembly import assemble
from trainer.methods.likelihoods import documents_of, prove_scores
from trainer.methods.prepared import PreparedORPOTrainer

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.methods.proof import Probe, Way


def build(run: TrainingRun) -> Trainer:
    """Return the trainer for one run; its data are prompts with a better and a worse answer."""
    config = run.config
    trainer = assemble(
        run,
        ORPOTrainer,
        mixin=PreparedORPOTrainer,
        max_length=config.max_length,
        beta=config.beta,
    )
    documents = documents_of(run, "chosen_ids")
    prove_scores(run, trainer, documents, partial(_scored, trainer), has_head=False, averaged=True)
    return trainer


def _scored(trainer: Any, probe: Probe, _: Way) -> list[Tensor]:
    """Return the mean log-likelihoods of rows, in turns as the better and as the worse answer."""
    features = []
    for row in probe.rows:
        asked = row["labels"].count(NO_LOSS)
        answer = row["input_ids"][asked:]
        feature = {"prompt_ids": row["input_ids"][:asked]}
        features.append(
            trainer.tokenize_row(feature | {"chosen_ids": answer, "rejected_ids": answer})
        )
    chosen, rejected = trainer.concatenated_forward(probe.model, trainer.data_collator(features))[
        :2
    ]
    return [
        (chosen, rejected)[number % 2][number : number + 1] for number in range(len(probe.rows))
    ]
