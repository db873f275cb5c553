"""A training method on a machine with little memory: a batch above the limit is too much."""

import os
from typing import Any

LIMIT = "NARROW_BATCH_LIMIT"  # the environment variable that holds it


def build(run: Any) -> Any:
    import torch

    from trainer.methods import sft

    def refuse(inputs: Any) -> None:
        free = "position_ids" in inputs  # of padding: all rows are in one, each begins at 0
        rows = (inputs["position_ids"] == 0).sum() if free else len(inputs["input_ids"])
        if rows > int(os.environ[LIMIT]):
            torch.empty(10**15)  # torch's own allocator refuses this

    trainer = sft.build(run)

    class Narrow(type(trainer)):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            refuse(inputs)
            return super().training_step(model, inputs, *args, **kwargs)

        def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            refuse(inputs)
            return super().prediction_step(model, inputs, *args, **kwargs)

    trainer.__class__ = Narrow
    return trainer
