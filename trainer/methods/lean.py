"""TRL's SFTTrainer for rows that are tokens already, without what it does beside the loss."""

from __future__ import annotations

import math
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy, pad
from transformers import Trainer
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from trainer.data.chats import NO_LOSS
from trainer.data.collation import WEIGHTS, PaddedCollator
from trainer.data.weights import WEIGHT
from trainer.engine.collectives import own_rows
from trainer.methods.proof import own_router_loss, without_cache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers.trainer_utils import EvalLoopOutput


class LeanSFTTrainer(SFTTrainer):  # type: ignore[misc] # TRL ships no types
    """Losses are means over all learned tokens of a step, or of the rows that are held out."""

    data_collator: Any
    compute_loss_func: Any
    _weights: torch.Tensor | None = None
    """Of the batch under way, by token; None: all count alike."""

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if WEIGHT not in self._signature_columns:
            self._signature_columns.append(WEIGHT)  # or it would be taken out of the rows

    @property
    def padded(self) -> Any:
        """TRL's collator of padded rows."""
        return DataCollatorForLanguageModeling(pad_token_id=self.processing_class.pad_token_id)

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - as transformers has it
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of a batch, as its part of the step's."""
        # TRL's own computes entropy and token accuracy at every step, from a head that it
        # runs again in the backward pass. With a small model that is 40 % of the time.
        inputs.update(self._cacheless)
        self._weights = inputs.pop(WEIGHTS, None)
        usual = self.compute_loss_func
        if self._weights is not None:  # of which the kernels that fuse head and loss know nothing
            self.compute_loss_here()
        try:
            loss, outputs = self._loss(model, inputs, num_items_in_batch)
        finally:
            self.compute_loss_func = usual
        return (loss, outputs) if return_outputs else loss

    def _loss(self, model: Any, inputs: Any, num_items_in_batch: Any) -> tuple[Any, Any]:
        following = inputs.get("shift_labels")
        if following is None:
            following = pad(inputs["labels"], (0, 1), value=NO_LOSS)[..., 1:]
            if self._weights is not None:
                self._weights = pad(self._weights, (0, 1))[..., 1:]
        if self._computes_loss:
            inputs.pop("shift_labels", None)
            inputs["labels"] = following
        loss, outputs = Trainer.compute_loss(
            self, model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        # Where rows are held out, routers do not count.
        share = following.ne(NO_LOSS).sum() / num_items_in_batch if self.model.training else 0.0
        return loss + self._balance(outputs, share), outputs

    def _balance(self, outputs: Any, share: Any) -> Any:
        """Return what to add to the loss, so that routers count by a batch's share of the step.

        A model adds its routers' loss to that of every batch: as often as batches accumulate.
        """
        routers = getattr(outputs, "aux_loss", None)
        if not self.aux_loss_enabled or not isinstance(routers, torch.Tensor):
            return 0.0
        adds = not self._computes_loss and self.label_smoother is None
        added = own_router_loss(self.model, outputs) if adds else 0.0
        return self._scale * (self.router_aux_loss_coef * share * routers - added)

    def compute_loss_here(self) -> None:
        """Compute the loss from the logits: some models do not shift their labels."""
        self.compute_loss_func = self._loss_of_logits

    def _loss_of_logits(self, outputs: Any, following: Any, num_items_in_batch: Any) -> Any:
        # A trained prompt stands before the rows and has logits too.
        logits = outputs.logits[:, -following.shape[1] :].flatten(0, 1).float()
        losses = cross_entropy(
            logits,
            following.flatten(),
            ignore_index=NO_LOSS,
            reduction="sum" if self._weights is None else "none",
            label_smoothing=self.args.label_smoothing_factor,
        )
        if self._weights is not None:
            losses = (losses * self._weights.flatten()).sum()
        return losses / num_items_in_batch

    def evaluation_loop(
        self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Evaluate; transformers' loss would be a mean over rows of the means of their batches."""
        self._scored: list[torch.Tensor] = []
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        sums = self.accelerator.reduce(torch.stack(self._scored).sum(0), "sum").tolist()
        output.metrics[f"{metric_key_prefix}_loss"] = sums[0] / sums[1] if sums[1] else math.nan
        self.evaluated_tokens = sums[1]
        return output

    def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        """Add up the losses of the tokens of a batch, those of routers left out."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs["labels"]
        labels[own_rows(self, len(labels)) :] = NO_LOSS
        learned = labels.ne(NO_LOSS).sum()
        with torch.no_grad(), self.compute_loss_context_manager():
            if self.args.use_liger_kernel and not self._computes_loss and not self.label_smoother:
                inputs["skip_logits"] = True
            one = torch.ones((), device=self.args.device)
            total = self.compute_loss(model, inputs, num_items_in_batch=one) / self._scale
        self._scored.append(torch.stack([total.double(), learned.double()]))
        return total / learned.clamp(min=1), None, None

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """Return batches of padded rows: what all processes score is counted by rows."""
        with self._padded():
            return super().get_eval_dataloader(*args, **kwargs)

    @contextmanager
    def _padded(self) -> Iterator[None]:
        # The collator is read when the loader is made, so exchanging it for a moment is enough.
        flat = self.data_collator
        self.data_collator = PaddedCollator(self.padded)
        try:
            yield
        finally:
            self.data_collator = flat

    @cached_property
    def _cacheless(self) -> dict[str, bool]:
        return without_cache(self.model)

    @property
    def _computes_loss(self) -> bool:
        return self.compute_loss_func is not None

    @property
    def _scale(self) -> int:
        """By what transformers multiplies a loss, because gradients are averaged."""
        return self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
