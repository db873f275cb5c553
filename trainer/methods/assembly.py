"""Putting one of TRL's trainers together with what every job's trainer has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from trainer.engine.arguments import training_arguments
from trainer.engine.deprecations import deprecations_allowed
from trainer.engine.job_trainer import JobTrainer, TrainingRun
from trainer.engine.masters import hold_layers
from trainer.engine.quantization import masters_kept
from trainer.engine.stream import Stream

if TYPE_CHECKING:
    from transformers import Trainer


def assemble(run: TrainingRun, kind: type[Any], **options: Any) -> Trainer:
    """Return the trainer for one run.

    Args:
        run: its inputs.
        kind: the trainer's class.
        options: arguments that the method adds, None where TRL's own default is wanted; and
            `trainer_options`, what the trainer's constructor takes besides the usual, and
            `mixin`, what comes before the trainer's class instead of `JobTrainer`.

    Raises:
        ConfigError: an argument is not known or has a wrong value.
    """
    trainer_options = options.pop("trainer_options", {})
    mixin = options.pop("mixin", JobTrainer)
    chosen = {name: value for name, value in options.items() if value is not None}
    arguments = training_arguments(
        run.config, run.directory, batch_divisor=run.batch_divisor, **chosen
    )
    # After a roll-back; the arguments are built from the config, which never changes.
    arguments.learning_rate *= run.learning_rate_factor
    # The mixin first, so that its methods come before those of the trainer.
    job_kind = type(f"Job{kind.__name__}", (mixin, kind), {})
    rows = run.train_dataset
    # TRL looks at the first rows, and knows its own library's data sets alone.
    rows = rows.head if isinstance(rows, Stream) else rows
    with deprecations_allowed(), masters_kept(run.model):
        trainer: Trainer = job_kind(
            run,
            model=run.model,
            args=arguments,
            train_dataset=rows,
            eval_dataset=run.eval_dataset,
            processing_class=run.tokenizer,
            **trainer_options,
        )
    if isinstance(run.train_dataset, Stream):
        trainer.train_dataset = run.train_dataset
    _complete_reference(run.model)
    return trainer


def _complete_reference(model: Any) -> None:
    """Copy into the reference what TRL leaves out, which is then what a new adapter begins with.

    It copies weights with `.default.` in their names, and many of PEFT's end in `.default`; and it
    rounds those of whole layers to the precision of the model.
    """
    hold_layers(model)  # those of the reference, which TRL has made of the model's own
    weights = dict(model.named_parameters())
    for name, reference in weights.items():
        if name.endswith(".ref") or ".ref." in name:
            own = re.sub(r"\.ref(?=\.|$)", ".default", name)
            reference.data.copy_(weights[own].data)
