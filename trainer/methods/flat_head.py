"""TRL's fused head over rows that lie in one sequence: no padding, and scores only where they count.

TRL calls a model with padded rows and gets a score of every token. Here such a call is turned into one
on a single sequence of the real tokens, whose rows do not see each other, and the scores are put back
where they belong in the padded batch; so the losses and metrics of dpo, kto, grpo and rloo stay TRL's.
On a CPU, TRL's head would also score every position there is, prompts and padding included, and compute
all logits once more for the gradients, so as not to keep them.
"""

from __future__ import annotations

import functools
import types
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear
from trl.trainer import utils
from trl.trainer.utils import FusedCausalLMOutput

from trainer.data.chats import NO_LOSS
from trainer.data.collation import bounds
from trainer.engine.attention import Isolation, without_adapters
from trainer.methods.proof import moved

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from torch import Tensor, nn
    from transformers import PreTrainedModel

KNOWN = frozenset({"input_ids", "attention_mask", "labels", "use_cache", "output_router_logits"})
"""What a call may hold; one with anything else is left to TRL."""
SCORES = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
KEPT = 2**26
"""Logits that are kept on a CPU, 256 MB of them; for more, TRL's tiles save memory."""


def lay_flat(model: PreTrainedModel, isolation: Isolation) -> Callable[[], None]:
    """Let TRL's fused head on a model, which must be there, score rows in one sequence.

    Args:
        model: prepared to keep rows apart as `isolation` says.
        isolation: what keeps them apart.

    Returns:
        How to undo it.
    """
    base: Any = without_adapters(model)
    padded = base.forward

    # As TRL does: generation checks its arguments against the signature.
    @functools.wraps(type(base).forward)
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **given: Any) -> Any:
        named = {name: value for name, value in given.items() if value is not None}
        is_flat = fused_lm_head and not args and "labels" in named and KNOWN.issuperset(named)
        if not is_flat or named.get("attention_mask") is None:
            return padded(*args, fused_lm_head=fused_lm_head, **given)
        mask, labels = named.pop("attention_mask").bool(), named.pop("labels")
        batch, kept = _flattened(named.pop("input_ids"), mask, isolation)
        # A token is scored from the state before it, if there is one in its own row.
        scored = (labels[:, 1:] != NO_LOSS) & mask[:, :-1]
        with _states_at(self.base_model, kept[:, :-1][scored]), _keeping_logits():
            out = padded(
                **named, **batch, shift_labels=labels[:, 1:][scored][None], fused_lm_head=True
            )
        return _spread(out, scored)

    base.forward = types.MethodType(forward, base)

    def undo() -> None:
        base.forward = padded

    return undo


def _flattened(ids: Tensor, mask: Tensor, isolation: Isolation) -> tuple[dict[str, Any], Tensor]:
    """Return the batch as one sequence, and each token's place in it, of the shape of `mask`."""
    lengths = mask.sum(1)
    positions = mask.cumsum(1) - 1
    batch = {"input_ids": ids[mask][None], "position_ids": positions[mask][None]}
    there = lengths[lengths > 0].cpu().numpy()
    batch |= {name: moved(value, ids.device) for name, value in bounds(isolation, there).items()}
    return batch, positions + (lengths.cumsum(0) - lengths)[:, None]


@contextmanager
def _states_at(decoder: nn.Module, places: Tensor) -> Iterator[None]:
    """Let a decoder return its last states at some places of the sequence only."""

    def chosen(_: nn.Module, __: Any, out: Any) -> Any:
        out.last_hidden_state = out.last_hidden_state[:, places]
        return out

    handle = decoder.register_forward_hook(chosen)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _keeping_logits() -> Iterator[None]:
    tiled = utils._ChunkedLogProbFunction

    class Head:
        """In the place of TRL's function, and called as that is."""

        @staticmethod
        def apply(*given: Any) -> Any:
            hidden, weight, bias, targets, temperature, _, softcap, scale, outputs = given
            if hidden.device.type != "cpu" or len(hidden) * len(weight) > KEPT:
                return tiled.apply(*given)
            same = hidden.dtype  # as TRL has it; the weights may have another
            of_tokens = None if bias is None else bias.to(same)
            logits = linear(hidden, weight.to(same), of_tokens).float() * scale
            if softcap is not None:
                logits = softcap * torch.tanh(logits / softcap)
            scores = scores_of(logits / temperature, targets, outputs)
            return tuple(scores.get(name) for name in SCORES)

    utils._ChunkedLogProbFunction = Head
    try:
        yield
    finally:
        utils._ChunkedLogProbFunction = tiled


def scores_of(logits: Tensor, targets: Tensor, names: Collection[str]) -> dict[str, Tensor]:
    """Return some of `SCORES` of each token, by their names; `log_probs` in any case.

    Args:
        logits: shape (…, vocabulary).
        targets: the tokens, shape (…).
        names: which.
    """
    known = logits.log_softmax(-1)
    scores = {"log_probs": known.gather(-1, targets[..., None])[..., 0]}
    if "entropy" in names:
        scores["entropy"] = -(known.exp() * known).sum(-1)
    # TRL has no gradients of these.
    logits, known = logits.detach(), known.detach()
    if "log_sum_sq_probs" in names:
        scores["log_sum_sq_probs"] = (2 * known).logsumexp(-1)
    if "mean_logits" in names:
        scores["mean_logits"] = logits.mean(-1)
    if "is_top1" in names:
        scores["is_top1"] = logits.argmax(-1) == targets
    return scores


def _spread(out: FusedCausalLMOutput, scored: Tensor) -> FusedCausalLMOutput:
    """Return the scores of the places that are scored in their padded batch; 0 elsewhere."""

    def spread(score: Tensor | None) -> Tensor | None:
        # Connected to the model even where nothing is scored, as TRL has it.
        return (
            None if score is None else score.new_zeros(scored.shape).masked_scatter(scored, score)
        )

    scores = {name: spread(getattr(out, name)) for name in SCORES}
    return FusedCausalLMOutput(loss=out.loss, label_mask=scored, aux_loss=out.aux_loss, **scores)
