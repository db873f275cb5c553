"""Continued pretraining on plain text: documents are joined and cut into full blocks.

A block may hold the end of one document and the start of the next, as pretraining does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.engine.job_trainer import TrainingRun
from trainer.methods import sft

if TYPE_CHECKING:
    from transformers import Trainer


def build(run: TrainingRun) -> Trainer:
    """Return the trainer for one run."""
    return sft.build(run, packing_strategy="wrapped")
