"""What dpo, orpo, kto and reward share: their rows are tokens already.

TRL would tokenise them by itself, and render a chat in other parts than we have checked; see
`trainer.data.answers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.engine.job_trainer import JobTrainer

if TYPE_CHECKING:
    from datasets import Dataset


class PreparedTrainer(JobTrainer):
    """The mixin before TRL's DPOTrainer and RewardTrainer."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


class PreparedKTOTrainer(JobTrainer):
    """The mixin before TRL's KTOTrainer."""

    args: Any
    calculate_KL: bool

    def _prepare_dataset(self, dataset: Dataset, _: Any, args: Any, *__: Any) -> Dataset:
        """Add to each row the answer of another one in its batch, by which TRL estimates KL."""
        if not self.calculate_KL:
            return dataset

        def turned(rows: dict[str, Any]) -> dict[str, Any]:
            answers = rows["completion_ids"]
            return {"KL_completion_ids": answers[-1:] + answers[:-1]}

        return dataset.map(turned, batched=True, batch_size=args.per_device_train_batch_size)


class PreparedORPOTrainer(JobTrainer):
    """The mixin before TRL's ORPOTrainer, which has other names for the same columns."""

    def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
        """Return prompt and answers with labels on the answers; nothing is tokenised."""
        prompt = feature["prompt_ids"]
        row = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
        for name in ("chosen", "rejected"):
            answer = feature[f"{name}_ids"]
            row[f"{name}_input_ids"] = prompt + answer
            row[f"{name}_attention_mask"] = [1] * (len(prompt) + len(answer))
            row[f"{name}_labels"] = [-100] * len(prompt) + answer
        return row
