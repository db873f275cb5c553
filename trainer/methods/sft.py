"""Supervised fine-tuning on examples, by TRL's SFTTrainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.loop import Run
from trainer.methods.assembly import assemble

if TYPE_CHECKING:
    from transformers import Trainer


def build(run: Run, **options: Any) -> Trainer:
    """Return the trainer for one run; its data are token ids and labels already."""
    from transformers import Trainer
    from trl import SFTTrainer

    class LeanSFTTrainer(SFTTrainer):  # type: ignore[misc] # TRL ships no types
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            # TRL's own computes entropy and token accuracy at every step, from a head that it
            # runs again in the backward pass. With a small model that is 40 % of the time.
            # The cache would let packed documents see each other.
            inputs["use_cache"] = False
            return Trainer.compute_loss(self, model, inputs, *args, **kwargs)

    packing = bool(run.config.packing)
    options = {
        "packing": packing,
        "packing_strategy": "bfd",
        "max_length": run.config.max_length,
        "dataset_kwargs": {"skip_prepare_dataset": not packing},
    } | options
    return assemble(run, LeanSFTTrainer, **options)
