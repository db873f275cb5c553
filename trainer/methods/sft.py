"""Supervised fine-tuning on examples, by TRL's SFTTrainer.

Rows are tokens already. By default a batch is one sequence without padding, whose rows do not see
each other, and logits are computed only where there is something to learn: the loss is that of the
padded batch, for less arithmetic. Whether it is for this model is proven before the first step; see
`trainer.methods.proof`.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, cast

from datasets import Dataset, Features, Sequence, Value
from transformers import PreTrainedModel, Trainer
from trl import pack_dataset

from trainer.config import TrainingConfig
from trainer.data.weights import WEIGHT
from trainer.engine.attention import without_adapters
from trainer.engine.job_trainer import TrainingRun
from trainer.engine.stream import Stream
from trainer.methods.assembly import assemble
from trainer.methods.lean import LeanSFTTrainer
from trainer.methods.ways import PROBED, chosen, is_asked_for, isolations, ways_of


def build(run: TrainingRun, packing_strategy: str = "bfd") -> Trainer:
    """Return the trainer for one run; its data are token ids and labels already.

    Args:
        run: its inputs.
        packing_strategy: TRL's: bfd keeps packed documents whole and apart, wrapped does not.

    Raises:
        ConfigError: the model cannot keep documents apart, and the job asks for it; or what it
            computes of a batch is not what it computes of each row.
    """
    packing = run.config.packs
    wrapped = packing and packing_strategy == "wrapped"
    kept_apart = [] if wrapped else isolations(run.model, run.config)
    trainer = cast(
        LeanSFTTrainer,
        assemble(
            run,
            LeanSFTTrainer,
            packing=packing,
            packing_strategy=packing_strategy,
            eval_packing=wrapped,
            max_length=run.config.max_length,
            # Rows are tokens already; TRL is needed only to pack them.
            dataset_kwargs={"skip_prepare_dataset": not packing},
        ),
    )
    if packing and isinstance(run.train_dataset, Stream):
        run.train_dataset.packed_by(partial(_packed, trainer.args))
    elif packing and WEIGHT in run.train_dataset.column_names:  # TRL has left the weights out
        trainer.train_dataset = _packed(trainer.args, run.train_dataset)
    padded = None if kept_apart and is_asked_for(run.config) else trainer.padded
    skips = _head_can_skip(run.model, run.config)
    ways = ways_of(run.model, kept_apart, padded, head_can_skip=skips)
    documents = run.train_dataset[:PROBED]["input_ids"]
    way, proof = chosen(run, trainer, ways, documents)
    trainer.data_collator = way.collate
    if proof.loss_fault or not trainer.model_accepts_loss_kwargs:
        trainer.compute_loss_here()
    if way.is_flat:
        # Read as arrays, a batch of 8 rows of 4,096 tokens takes 0.8 ms, as lists 3.4 ms.
        trainer.train_dataset = trainer.train_dataset.with_format("numpy")
    return trainer


def _packed(arguments: Any, rows: Dataset) -> Dataset:
    """Return rows packed as TRL packs them, each token with the weight of its row."""
    columns = ["input_ids", "labels"]
    if WEIGHT in rows.column_names:
        columns.append(WEIGHT)
        each = {**rows.features, WEIGHT: Sequence(Value("float32"))}
        rows = rows.map(_weight_of_tokens, batched=True, features=Features(each))
    packed: Dataset = pack_dataset(
        rows.select_columns(columns), arguments.max_length, arguments.packing_strategy
    )
    return packed


def _weight_of_tokens(rows: dict[str, Any]) -> dict[str, Any]:
    return {
        WEIGHT: [[w] * len(ids) for w, ids in zip(rows[WEIGHT], rows["input_ids"], strict=True)]
    }


def _head_can_skip(model: PreTrainedModel, config: TrainingConfig) -> bool:
    base = without_adapters(model)
    return (
        "logits_to_keep" in inspect.signature(base.forward).parameters
        and not config.arguments.get("label_smoothing_factor")  # it wants all logits
    )
