"""A training method on a machine with little memory: a batch above the limit is too much."""

import os
from typing import Any

from trainer.loop import Run
from trainer.methods import sft

LIMIT = "NARROW_BATCH_LIMIT"  # the environment variable that holds it


def build(run: Run) -> Any:
    import torch

    trainer = sft.build(run)

    class Narrow(type(trainer)):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if len(inputs["input_ids"]) > int(os.environ[LIMIT]):
                torch.empty(10**15)  # torch's own allocator refuses this
            return super().training_step(model, inputs, *args, **kwargs)

    trainer.__class__ = Narrow
    return trainer
