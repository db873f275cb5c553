"""Rows of tokens → one batch without padding, whose rows do not see each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainer.data.chats import NO_LOSS
from trainer.data.weights import WEIGHT
from trainer.engine.attention import Isolation

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

ALIKE = 128
"""Documents up to this many tokens attend together, however short they are: a further call of the
kernel costs more than the padding."""


WEIGHTS = "loss_weights"
"""In a batch: by what the loss of each token is multiplied; in the places of the labels, or where
there are any, of the shifted ones."""


def weights_of(rows: list[dict[str, Any]]) -> list[NDArray[np.float32]]:
    """Take the weights of each token out of the rows of a batch; none where all count alike."""
    own = [np.asarray(row.pop(WEIGHT, 1), dtype=np.float32) for row in rows]
    if all((weights == 1).all() for weights in own):
        return []
    lengths = [len(row["input_ids"]) for row in rows]
    return [np.broadcast_to(w, (n,)).copy() for w, n in zip(own, lengths, strict=True)]


@dataclass(frozen=True)
class PaddedCollator:
    """Lays the documents of a batch one beside another, as TRL does.

    The first token of each learns nothing, for nothing comes before it; some would count it.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
    """TRL's own."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch; see `FlatCollator`."""
        weights = weights_of(rows)
        batch = self.collate(rows)
        batch["labels"][:, 0] = NO_LOSS
        if weights:
            batch[WEIGHTS] = torch.zeros(batch["labels"].shape)
            for row, own in zip(batch[WEIGHTS], weights, strict=True):
                row[: len(own)] = torch.from_numpy(own)
        return batch


@dataclass(frozen=True)
class FlatCollator:
    """Lays the documents of a batch one after another, in one sequence of shape (1, tokens).

    position_ids begin anew with each document. The last token of a document learns nothing, for
    what follows it is another's. A module's class, so that it can be sent to a spawned worker.
    """

    isolation: Isolation
    """What keeps documents apart in the model."""
    head_can_skip: bool
    """Whether the model computes logits for the positions of `logits_to_keep` alone."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch.

        Args:
            rows: input_ids and labels, lists or arrays; of packed rows also seq_lengths, the
                tokens of each document in the row. Where rows are weighted, weight of each, or of
                packed ones a weight of each token.
        """
        lengths = np.concatenate([row.get("seq_lengths", [len(row["input_ids"])]) for row in rows])
        tokens, labels = (
            np.concatenate([row[name] for row in rows]) for name in ("input_ids", "labels")
        )
        starts = np.cumsum(lengths) - lengths
        # Nothing comes before the first token of a document but another document.
        labels[starts] = NO_LOSS
        # Shifted here, so that transformers does not shift across the positions that are kept.
        following = np.append(labels[1:], NO_LOSS)
        batch = {
            "input_ids": _tensor(tokens)[None],
            "position_ids": _tensor(np.arange(len(tokens)) - np.repeat(starts, lengths))[None],
            "labels": _tensor(labels)[None],
        }
        weights = weights_of(rows)
        following_weights = None
        if weights:
            following_weights = np.append(np.concatenate(weights)[1:], np.float32(0))
        # Where nothing is to be learnt the head need not be computed: of a chat, often most of it.
        if self.head_can_skip:
            learnt = np.flatnonzero(following != NO_LOSS)
            batch["logits_to_keep"] = _tensor(learnt)
            following = following[learnt]
            following_weights = None if following_weights is None else following_weights[learnt]
        batch["shift_labels"] = _tensor(following)[None]
        if following_weights is not None:
            batch[WEIGHTS] = torch.from_numpy(following_weights)[None]
        return batch | bounds(self.isolation, lengths)


def bounds(isolation: Isolation, lengths: NDArray[np.int64]) -> dict[str, Any]:
    """Return what shows the model's attention where documents begin and end.

    Args:
        isolation: what keeps documents apart in the model.
        lengths: of each document, in tokens; shape (documents,).
    """
    match isolation:
        case Isolation.FLASH:
            # The kernel takes int32 only, and the lengths as a prefix sum.
            # https://github.com/Dao-AILab/flash-attention
            ends = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
            longest = int(lengths.max())
            return {
                "cu_seq_lens_q": ends,
                "cu_seq_lens_k": ends,
                "max_length_q": longest,
                "max_length_k": longest,
            }
        case Isolation.BY_DOCUMENT:
            rows, order = layout(lengths)
            return {"document_rows": rows, "document_order": order}
        case Isolation.MASK:
            return {}


def layout(lengths: NDArray[np.int64]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return how to put the documents of a sequence into few rectangles, and out of them again.

    A rectangle holds documents of which the longest is at most twice as long as the shortest, or
    all that have up to `ALIKE` tokens; so there are few, and little of them is padding.

    Args:
        lengths: of each document, in tokens; shape (documents,).

    Returns:
        Index tensors of shape (documents, longest) into the sequence, one a rectangle; a short row
        ends with its last token repeated, which no token before it sees. And the index, of shape
        (tokens,), of each token in the concatenated rectangles.
    """
    starts = np.cumsum(lengths) - lengths
    order = np.empty(lengths.sum(), dtype=np.int64)
    rectangles, offset = [], 0
    # Longest first, so that each rectangle is as wide as its first document.
    remaining = np.argsort(-lengths, kind="stable")
    while len(remaining):
        longest = lengths[remaining[0]]
        is_alike = lengths[remaining] * 2 > longest if longest > ALIKE else remaining >= 0
        members, remaining = remaining[is_alike], remaining[~is_alike]
        columns = np.arange(longest)
        last = lengths[members, None] - 1
        rows = starts[members, None] + np.minimum(columns, last)
        places = offset + np.arange(rows.size).reshape(rows.shape)
        is_real = columns <= last
        order[rows[is_real]] = places[is_real]
        rectangles.append(_tensor(rows))
        offset += rows.size
    return rectangles, _tensor(order)


def _tensor(values: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64))
