"""Log-likelihoods for dpo and kto: of TRL's fused head where they are those of the model.

TRL's head multiplies the last hidden states by the output weights, tile by tile, and never calls what a
model does between the two, nor its own loss of routers. It is proven on the model, like the way of
its rows; where it is not right, likelihoods are made of the model's logits.
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any

import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import FusedCausalLMOutput

from trainer.data.chats import NO_LOSS
from trainer.engine.attention import without_adapters
from trainer.methods.proof import without_cache
from trainer.methods.ways import PROBED, chosen, ways_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from trainer.engine.job_trainer import TrainingRun


def prove_likelihoods(run: TrainingRun, trainer: Any, answer: str) -> None:
    """Prove that padded rows are scored as each alone, and let the logits score them if need be.

    Args:
        run: its inputs.
        trainer: of TRL, with its fused head on the model.
        answer: the column of answers that are scored.

    Raises:
        ConfigError: the model is not causal, or padding changes what it computes.
    """
    rows = run.train_dataset[:PROBED]
    documents = [prompt + ids for prompt, ids in zip(rows["prompt_ids"], rows[answer], strict=True)]
    padded = DataCollatorForLanguageModeling(pad_token_id=run.tokenizer.pad_token_id)
    ways = ways_of(run.model, [], padded, head_can_skip=False)
    fused = {"output_router_logits": True} if getattr(trainer, "aux_loss_enabled", False) else {}
    _, proof = chosen(run, trainer, ways, documents, fused)
    if proof.loss_fault:
        for model in filter(None, (run.model, trainer.ref_model)):
            score_by_logits(model)


def score_by_logits(model: PreTrainedModel) -> None:
    """Put in the place of TRL's fused head one that returns the same of the model's own logits."""
    base: Any = without_adapters(model)
    own = types.MethodType(type(base).forward, base)

    # As TRL does: generation checks its arguments against the signature.
    @functools.wraps(type(base).forward)
    def forward(
        self: PreTrainedModel,
        *args: Any,
        fused_lm_head: bool = False,
        labels: Tensor | None = None,
        **given: Any,
    ) -> Any:
        if not fused_lm_head:
            return own(*args, **given, **({} if labels is None else {"labels": labels}))
        assert labels is not None  # noqa: S101 - for the type checker: TRL gives them
        given.pop("use_cache", None)
        out = own(*args, **given, **without_cache(self))
        scores = _scores(out.logits[:, -labels.shape[1] : -1].float(), labels[:, 1:])
        routers = getattr(out, "aux_loss", None)  # some have routers, and no loss of them
        balance = routers if isinstance(routers, torch.Tensor) else out.logits.new_zeros(())
        return FusedCausalLMOutput(**scores, aux_loss=balance)

    base.forward = types.MethodType(forward, base)


def _scores(logits: Tensor, following: Tensor) -> dict[str, Tensor]:
    """Return what TRL's head does of each token; 0 where nothing is learned."""
    mask = following != NO_LOSS
    known = logits.log_softmax(-1)
    scores = {
        "log_probs": known.gather(-1, following.clamp(min=0)[..., None])[..., 0],
        "entropy": -(known.exp() * known).sum(-1),
        "log_sum_sq_probs": (2 * known).logsumexp(-1).detach(),
        "mean_logits": logits.mean(-1).detach(),
    }
    scores = {name: torch.where(mask, score, 0.0) for name, score in scores.items()}
    is_top1 = (logits.argmax(-1) == following) & mask
    return scores | {"is_top1": is_top1, "label_mask": mask}
