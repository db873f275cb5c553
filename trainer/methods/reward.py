"""Reward modelling (Ouyang et al. 2022, arXiv:2203.02155), by TRL's RewardTrainer.

The model has one score in place of its vocabulary; it learns that the better answer has more.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from transformers import Trainer
from trl import RewardTrainer

from trainer.engine.job_trainer import TrainingRun
from trainer.methods.assembly import assemble
from trainer.methods.prepared import PreparedTrainer
from trainer.methods.scores import prove_read_whole

if TYPE_CHECKING:
    from torch import Tensor


def build(run: TrainingRun) -> Trainer:
    """Return the trainer for one run; its data are prompts with a better and a worse answer."""
    options = {"mixin": PreparedTrainer, "max_length": run.config.max_length}
    trainer = assemble(run, RewardTrainer, **options)
    prove_read_whole(run, trainer, "chosen_ids", partial(_together, trainer.data_collator))
    return trainer


def _together(collate: Any, rows: list[list[int]]) -> dict[str, Tensor]:
    """Return an even number of rows as a batch of better and worse answers."""
    half = len(rows) // 2
    pairs = zip(rows[:half], rows[half:], strict=True)
    batch: dict[str, Tensor] = collate(
        [{"chosen_ids": better, "rejected_ids": worse} for better, worse in pairs]
    )
    return batch
