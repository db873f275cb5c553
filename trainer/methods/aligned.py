"""Prompts with answers whose padding stands at their ends alone.

Generating pads prompts on the left. To read a whole batch so is not to read each row alone: a model
that counts its positions (GPT-2), or carries a state, begins at the padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Aligned:
    """Rows that all begin in the first column."""

    ids: Tensor
    """Shape (batch, longest row)."""
    mask: Tensor
    """1 for tokens, 0 for padding."""
    scored: int
    """How many of the last columns hold all answers; before the first of them is a token."""
    _places: Tensor
    _is_answer: Tensor

    @classmethod
    def of(cls, ids: Tensor, mask: Tensor, answer: int) -> Aligned:
        """Return rows aligned.

        Args:
            ids: prompts, padded on the left, followed by answers, padded on the right.
            mask: 1 for tokens, 0 for padding; of the same shape.
            answer: columns of the answers.
        """
        width = ids.shape[1]
        columns = torch.arange(width, device=ids.device)
        begins = mask.argmax(1)  # the first of the ones
        order = (columns + begins[:, None]) % width
        mask, is_answer = mask.gather(1, order), mask[:, width - answer :].bool()
        prompts = width - answer - begins  # tokens of each
        [longest, first] = torch.stack([(mask * (columns + 1)).max(), prompts.min()]).tolist()
        first = max(first, 1)  # nothing predicts the first token of all
        places = prompts[:, None] + columns[:answer] - first
        scored = longest - first
        return cls(
            ids=ids.gather(1, order)[:, :longest],
            mask=mask[:, :longest],
            scored=scored,
            _places=places.clamp(min=0, max=scored - 1),
            _is_answer=is_answer & (places >= 0),
        )

    def answers(self, values: Tensor) -> Tensor:
        """Return what belongs to each token of an answer, where it was; 0 for padding.

        Args:
            values: of the `scored` columns, of shape (batch, scored) or with more dimensions.
        """
        batch = torch.arange(len(values), device=values.device)[:, None]
        found = values[batch, self._places]
        is_answer = self._is_answer.view(*self._is_answer.shape, *[1] * (values.ndim - 2))
        return torch.where(is_answer, found, 0.0)
