"""Supervised fine-tuning on examples, by TRL's SFTTrainer.

Rows are tokens already. By default a batch is one sequence without padding, whose rows do not see
each other, and logits are computed only where there is something to learn: the loss is that of the
padded batch, for less arithmetic.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, Trainer
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from trainer.config import TrainingConfig
from trainer.contract.errors import ConfigError
from trainer.data.collation import FlatCollator
from trainer.engine.attention import Isolation, attend_by_document, isolation_of
from trainer.engine.job_trainer import TrainingRun
from trainer.methods.assembly import assemble

if TYPE_CHECKING:
    from collections.abc import Iterator

COSTLY = Isolation.MASK
"""Of use to packed rows, but no faster than padding."""


def build(run: TrainingRun, packing_strategy: str = "bfd") -> Trainer:
    """Return the trainer for one run; its data are token ids and labels already.

    Args:
        run: its inputs.
        packing_strategy: TRL's: bfd keeps packed documents whole and apart, wrapped does not.

    Raises:
        ConfigError: the model cannot keep documents apart, and the job asks for it.
    """
    packing = run.config.packs
    wrapped = packing and packing_strategy == "wrapped"
    kept_apart = None if wrapped else isolation(run.model, run.config)
    head_can_skip = _head_can_skip(run.model, run.config)
    trainer = assemble(
        run,
        _lean_trainer(),
        packing=packing,
        packing_strategy=packing_strategy,
        eval_packing=wrapped,
        max_length=run.config.max_length,
        # Rows are tokens already; TRL is needed only to pack them.
        dataset_kwargs={"skip_prepare_dataset": not packing},
    )
    if kept_apart:
        if kept_apart is Isolation.BY_DOCUMENT:
            attend_by_document(run.model)
        trainer.data_collator = FlatCollator(kept_apart, head_can_skip=head_can_skip)
        # Read as arrays, a batch of 8 rows of 4,096 tokens takes 0.8 ms, as lists 3.4 ms.
        trainer.train_dataset = trainer.train_dataset.with_format("numpy")
    return trainer


def _lean_trainer() -> type[Trainer]:
    class LeanSFTTrainer(SFTTrainer):  # type: ignore[misc] # TRL ships no types
        data_collator: Any

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            # TRL's own computes entropy and token accuracy at every step, from a head that it
            # runs again in the backward pass. With a small model that is 40 % of the time.
            # The cache would let packed documents see each other.
            inputs["use_cache"] = False
            return Trainer.compute_loss(self, model, inputs, *args, **kwargs)

        def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> Any:
            # transformers weighs the loss of a batch by its rows, so here they must be rows.
            with self._padded():
                return super().get_eval_dataloader(*args, **kwargs)

        @contextmanager
        def _padded(self) -> Iterator[None]:
            # The collator is read when the loader is made, so exchanging it for a moment is enough.
            flat = self.data_collator
            self.data_collator = DataCollatorForLanguageModeling(
                pad_token_id=self.processing_class.pad_token_id
            )
            try:
                yield
            finally:
                self.data_collator = flat

    kind: type[Trainer] = LeanSFTTrainer
    return kind


def isolation(model: PreTrainedModel, config: TrainingConfig) -> Isolation | None:
    """Return what keeps the rows of a batch apart; None: they are padded, one beside another."""
    found = isolation_of(model)
    wanted = "packing" if config.packs else "padding_free"
    if found is None and (config.packs or config.padding_free):
        raise ConfigError(
            f"training.{wanted}: the attention of {type(model).__name__} cannot keep rows apart "
            "that lie in one sequence.",
            f"Set {wanted}: false.",
        )
    if config.packs or config.padding_free:
        return found
    # A compiled model is compiled anew for every new number of tokens.
    is_compiled = bool(config.arguments.get("torch_compile"))
    unwanted = config.padding_free is False or is_compiled or found is COSTLY
    return None if unwanted else found


def _head_can_skip(model: PreTrainedModel, config: TrainingConfig) -> bool:
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    return (
        "logits_to_keep" in inspect.signature(base.forward).parameters
        and not config.arguments.get("label_smoothing_factor")  # it wants all logits
    )
