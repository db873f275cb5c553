"""What the trainer reads, checked."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from trainer.config import rules
from trainer.config.training_fields import TrainingFields


class TrainingConfig(TrainingFields):
    """What the trainer reads: method, model, dataset, adapters and hyperparameters."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        rules.check(self)
        return self
