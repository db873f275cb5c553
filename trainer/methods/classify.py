"""Classification of texts, pairs of texts and chats, into one class each or several.

The model's head has a score for every class. Its loss is the cross entropy of the classes, or, where
several may fit, of each class apart.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import Trainer

from trainer.config import TrainingConfig
from trainer.engine.attention import without_adapters
from trainer.engine.collectives import own_rows
from trainer.engine.job_trainer import TrainingRun
from trainer.methods.assembly import assemble
from trainer.methods.scores import prove_read_whole

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.trainer_utils import EvalLoopOutput

SHOWN = 50
"""Up to this many classes it is noted which of them are taken for which."""


@dataclass(frozen=True)
class LabelCollator:
    """Pads rows on the right, for the score is that of the last token before the padding."""

    pad_token: int
    classes: Mapping[str, int]
    several: bool
    knows_segments: bool
    """Whether the model wants to know to which of two texts a token belongs."""

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return input_ids, attention_mask and labels, of shape (rows,) or (rows, classes)."""
        batch = self.padded([row["input_ids"] for row in rows])
        batch["labels"] = self._labels([row["label"] for row in rows])
        if self.knows_segments and rows[0].get("token_type_ids") is not None:
            batch["token_type_ids"] = _padded([row["token_type_ids"] for row in rows], 0)
        return batch

    def padded(self, rows: list[list[int]]) -> dict[str, Tensor]:
        """Return input_ids and attention_mask."""
        ids, lengths = _padded(rows, self.pad_token), torch.tensor([*map(len, rows)])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return {"input_ids": ids, "attention_mask": mask}

    def _labels(self, labels: list[list[str]]) -> Tensor:
        if not self.several:
            return torch.tensor([self.classes[label] for (label,) in labels])
        fits = torch.zeros(len(labels), len(self.classes))
        for row, names in enumerate(labels):
            fits[row, [self.classes[name] for name in names]] = 1.0
        return fits


def _padded(rows: list[list[int]], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=value
    )


class LabelTrainer(Trainer):  # type: ignore[misc] # transformers is not checked
    """Losses are means over the rows of a step, or of all rows that are held out."""

    def __init__(self, *, config: TrainingConfig, weights: Tensor | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._classes = list(config.labels or [])
        self._several = bool(config.several_labels)
        self._weights = weights
        # So that transformers counts the rows of a whole step: its loss would be a mean of means.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = False
        self._taken_for: list[list[int]] = []
        self._totals: dict[str, Tensor] = {}

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - as transformers has it
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of a batch, as its part of the step's."""
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        inputs["labels"] = labels
        # Of several labels transformers counts every class of every row.
        count = len(labels) if num_items_in_batch is None else num_items_in_batch
        if self._several and num_items_in_batch is None:
            count *= labels.shape[1]
        scale = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        loss = scale * self._total(outputs.logits, labels) / count
        return (loss, outputs) if return_outputs else loss

    def _total(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits, smoothing = logits.float(), self.args.label_smoothing_factor
        if self._several:
            wanted = labels * (1 - smoothing) + smoothing / 2
            return binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        weights = None if self._weights is None else self._weights.to(logits.device)
        return cross_entropy(
            logits, labels, weight=weights, reduction="sum", label_smoothing=smoothing
        )

    measures = ("accuracy", "macro_f1")

    # Evaluation -------------------------------------------------------------------------------

    def evaluation_loop(
        self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Evaluate; the metrics follow from counts, so that no batch size changes them."""
        self._counted: list[Tensor] = []
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        total = self.accelerator.reduce(torch.stack(self._counted).sum(0), "sum").cpu()
        self._totals[metric_key_prefix] = total
        found = self._metrics_of(total)
        output.metrics.update({f"{metric_key_prefix}_{name}": v for name, v in found.items()})
        return output

    def measured_of_all(self) -> dict[str, float]:
        """Return the metrics of the last evaluation of each of several data sets together."""
        found = self._metrics_of(torch.stack([*self._totals.values()]).sum(0))
        return {name: found[name] for name in self.measures}

    def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        """Count what a batch's rows are taken for."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")
        rows = own_rows(self, len(labels))
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**inputs).logits[:rows].float()
        labels = labels[:rows]
        size = len(self._classes)
        loss = self._total(logits, labels) / (size if self._several else 1)
        said, right = logits.argmax(dim=-1), labels
        if self._several:
            guessed, wanted = logits > 0, labels > 0.5  # 0 is a probability of one half
            correct = (guessed == wanted).all(dim=1).sum()
            both, of_said, of_right = ((guessed & wanted).sum(0), guessed.sum(0), wanted.sum(0))
            matrix = labels.new_zeros(0)
        else:
            correct = (said == right).sum()
            both = torch.bincount(right[said == right], minlength=size)
            of_said, of_right = (torch.bincount(each, minlength=size) for each in (said, right))
            small = size <= SHOWN
            matrix = torch.bincount(right * size + said, minlength=size**2) if small else both[:0]
        first = torch.stack([loss, loss.new_tensor(rows), correct])
        self._counted.append(torch.cat([first, both, of_said, of_right, matrix]).double())
        return loss / max(1, rows), None, None

    def _metrics_of(self, total: Tensor) -> dict[str, float]:
        size = len(self._classes)
        loss, rows, correct = total[:3].tolist()
        both, said, right = total[3 : 3 + 3 * size].view(3, size)
        # Classes that neither are there nor were guessed have no score of their own.
        there = (said + right) > 0
        scores = 2 * both[there] / (said + right)[there]
        if not self._several and size <= SHOWN:
            self._taken_for = total[3 + 3 * size :].view(size, size).long().tolist()
        return {
            "loss": loss / rows,
            "accuracy": correct / rows,
            "macro_f1": float(scores.mean()) if len(scores) else 0.0,
        }

    def notes(self) -> dict[str, Any]:
        """Return the classes, and which of them were taken for which in the last evaluation."""
        found: dict[str, Any] = {"labels": self._classes, "several_labels": self._several}
        return found | ({"taken_for": self._taken_for} if self._taken_for else {})


def build(run: TrainingRun) -> Trainer:
    """Return the trainer for one run; its data are tokens and labels."""
    config, base = run.config, without_adapters(run.model)
    # By it the model finds the last token of a row.
    base.config.get_text_config().pad_token_id = run.tokenizer.pad_token_id
    base.config.pad_token_id = run.tokenizer.pad_token_id
    classes = {label: i for i, label in enumerate(config.labels or [])}
    collate = LabelCollator(
        pad_token=run.tokenizer.pad_token_id,
        classes=classes,
        several=bool(config.several_labels),
        knows_segments="token_type_ids" in inspect.signature(base.forward).parameters,
    )
    weights = class_weights(config, [label for row in run.train_dataset["label"] for label in row])
    trainer = assemble(
        run,
        LabelTrainer,
        trainer_options={"config": config, "weights": weights, "data_collator": collate},
        remove_unused_columns=False,
    )
    run.notes = trainer.notes
    prove_read_whole(run, trainer, "input_ids", collate.padded)
    return trainer


def class_weights(config: TrainingConfig, labels: Sequence[str]) -> Tensor | None:
    """Return how much a row of each class counts, on average 1; None: every row alike.

    Args:
        config: the job's settings.
        labels: of the rows that are trained on.
    """
    if config.class_weights is None:
        return None
    classes = config.labels or []
    rows = Counter(labels)
    counts = torch.tensor([float(rows[name]) for name in classes])
    if config.class_weights == "balanced":
        given = 1 / counts.clamp(min=1)
    else:
        given = torch.tensor([config.class_weights.get(name, 1.0) for name in classes])
    return given * counts.sum() / (given * counts).sum()
