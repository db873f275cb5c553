"""Continued pretraining on plain text: documents are joined and cut into full blocks.

A block may hold the end of one document and the start of the next, as pretraining does it.
"""

from __future__ import annotations

from transformers import Trainer

from trainer.engine.job_trainer import TrainingRun
from trainer.methods import sft


def build(run: TrainingRun) -> Trainer:
    """Return the trainer for one run."""
    return sft.build(run, packing_strategy="wrapped")
