"""Prove that a model scores a row in a batch as it scores the row alone, and all of it.

The scores of a reward model or a classifier are read at one place of a row. Which one that is differs
from model to model: the last token, the first, or what stands in the last column, be it padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from trainer.contract.errors import ConfigError
from trainer.methods.proof import (
    EXACT,
    Proof,
    computes_exactly,
    name_of,
    probe_rows,
    refuse_without_gradient,
    tried,
    why_not,
    without_cache,
)
from trainer.methods.ways import PADDED, PROBED, proven, say_unproven

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from trainer.engine.job_trainer import TrainingRun

    Together = Callable[[list[list[int]]], dict[str, Tensor]]
    """Puts the token ids of rows together as the training does, without labels."""

ROUGH = 0.5
"""By how much scores may differ where numbers are rounded, as a part of the largest: they are sums
of much that is of both signs. What is read at another token differs by more."""


def prove_read_whole(run: TrainingRun, trainer: Any, column: str, together: Together) -> None:
    """Prove it for the trainer's model and its way to put rows together.

    Args:
        run: its inputs.
        trainer: it has the model in its place.
        column: of the data, with the token ids of rows.
        together: how they are put together.

    Raises:
        ConfigError: it is not so.
    """
    if run.config.parallelism != "ddp":
        say_unproven(PADDED)
        return
    documents = run.train_dataset[:PROBED][column]
    prove = partial(_proof, run, trainer.accelerator.autocast, documents, together)
    proven(run, trainer, [PADDED], prove)


def _proof(
    run: TrainingRun, autocast: Any, documents: Sequence[Sequence[int]], together: Together
) -> Proof:
    model = run.model
    limit = EXACT if computes_exactly(model, autocast) else ROUGH
    rows = [row["input_ids"] for row in probe_rows(documents, run.config.max_length)]
    size = model.get_input_embeddings().weight.shape[0]
    other_ends = [[*row[:-1], (row[-1] + 1) % size] for row in rows]
    with tried(model, run.config.max_length), autocast():
        try:
            alone = torch.stack([_scores(model, row) for row in rows + other_ends])
            batch = {
                name: ids.to(model.device) for name, ids in together(rows + other_ends).items()
            }
            scores = model(**batch, **without_cache(model)).logits.float()
        except Exception as error:
            raise _refused(run, f"cannot score a row: {why_not(error)}") from error
        refuse_without_gradient(model, rows[0])
        other_begin = _scores(model, [(rows[0][0] + 1) % size, *rows[0][1:]])
    scale = max(float(alone.abs().max()), 1e-3)
    difference = float((scores.view_as(alone) - alone).abs().max()) / scale
    if not difference <= limit:
        raise _refused(
            run, f"scores a row in a batch otherwise than alone (scores differ by {difference:.2g})"
        )
    # Nothing at all moves the scores of a head of zeros.
    sees_begin = not torch.equal(other_begin, alone[0])
    if sees_begin and torch.equal(alone[: len(rows)], alone[len(rows) :]):
        raise _refused(run, "scores a row by its first token and does not see its last")
    return Proof(PADDED, difference)


def _scores(model: PreTrainedModel, row: list[int]) -> Tensor:
    ids = torch.tensor([row], device=model.device)
    scores: Tensor = model(input_ids=ids, **without_cache(model)).logits[0].float()
    return scores


def _refused(run: TrainingRun, what: str) -> ConfigError:
    return ConfigError(
        f"training.model: {name_of(run.model)} {what}, so that {run.config.method} cannot train it.",
        "Choose another model.",
    )
