"""Evaluate on several data sets: a loss of each, and one of all that training is judged by."""

from __future__ import annotations

from typing import Any


class BySource:
    """A mixin before a transformers Trainer, which would log one evaluation a data set, and no whole."""

    eval_dataset: Any
    evaluated_tokens: float | None = None
    """Over how many tokens the loss of the last evaluation is a mean; None: over rows."""

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Return the metrics: of several data sets eval_<name>_loss each, and eval_loss of all."""
        trainer: Any = self
        if eval_dataset is not None or not isinstance(self.eval_dataset, dict):
            found: dict[str, float] = super().evaluate(  # type: ignore[misc] # mixin
                eval_dataset, ignore_keys, metric_key_prefix
            )
            return found
        # What a method measures besides, such as accuracy; see `trainer.methods.classify`.
        measures = getattr(trainer, "measures", ())
        metrics: dict[str, float] = {}
        total = weights = 0.0
        for name in self.eval_dataset:
            prefix = f"{metric_key_prefix}_{name}"
            output = trainer.evaluation_loop(
                trainer.get_eval_dataloader(name),
                description="Evaluation",
                # As transformers does: without metrics of its own only the losses are gathered.
                prediction_loss_only=True if trainer.compute_metrics is None else None,
                ignore_keys=ignore_keys,
                metric_key_prefix=prefix,
            )
            metrics[f"{prefix}_loss"] = loss = output.metrics[f"{prefix}_loss"]
            for measure in measures:
                metrics[f"{prefix}_{measure}"] = output.metrics[f"{prefix}_{measure}"]
            weight = output.num_samples if self.evaluated_tokens is None else self.evaluated_tokens
            if weight:
                total, weights = total + loss * weight, weights + weight
        # First, so that loggers which look at one name know an evaluation by it.
        metrics = {
            f"{metric_key_prefix}_loss": total / weights if weights else float("nan")
        } | metrics
        if measures:
            of_all = trainer.measured_of_all()
            metrics |= {f"{metric_key_prefix}_{name}": of_all[name] for name in measures}
        trainer.log(metrics)
        trainer.control = trainer.callback_handler.on_evaluate(
            trainer.args, trainer.state, trainer.control, metrics
        )
        return metrics
