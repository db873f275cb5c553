"""Proximal policy optimisation as a transformers Trainer: one optimizer step a mini-batch."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from transformers import Trainer
from trl.trainer.utils import (
    RepeatSampler,
    disable_dropout_in_model,
    shuffle_sequence_dict,
    split_tensor_dict,
    use_adapter,
)

from trainer.contract.world import own_rank
from trainer.methods.online import joined, only_given_samplers
from trainer.methods.ppo_parts.answers import (
    as_completions,
    generate,
    prompt_tokens,
    read,
    together,
)
from trainer.methods.ppo_parts.losses import (
    advantages_of,
    masked_mean,
    policy_loss,
    summed,
    token_rewards,
    value_loss,
    whitened,
)

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.methods.ppo_parts.config import PPOConfig
    from trainer.rewards.checked import Reward

REFERENCE = "ref"
VALUE_HEAD = "value_head.safetensors"


class PPOTrainer(Trainer):  # type: ignore[misc] # transformers is not checked
    """Learns from its own answers, by rewards (Ouyang et al. 2022, arXiv:2203.02155).

    A rollout is buffered as TRL's GRPOTrainer does it, and under the same names, so that
    `RolloutTrainer` keeps it in checkpoints. The value head lies beside the model, not in it:
    what is saved as the model is the policy alone.
    """

    in_parts: Any
    """See `trainer.engine.smaller_parts.InParts`, which `RolloutTrainer` is."""
    in_groups: Any
    """See `RolloutTrainer`."""
    answers_cached: bool
    """See `RolloutTrainer`."""

    def __init__(
        self,
        model: Any,
        args: PPOConfig,
        reward_funcs: list[Reward],
        *,
        goes_on: bool = False,
        **kwargs: Any,
    ) -> None:
        """Take the model.

        Args:
            model: the policy, with or without adapters.
            args: of the training.
            reward_funcs: what scores answers.
            goes_on: whether its adapter has been trained before.
            kwargs: what transformers' trainer takes besides.
        """
        disable_dropout_in_model(model)  # what is learnt from must be what was generated
        hidden_size = model.config.get_text_config().hidden_size
        super().__init__(model=model, args=args, data_collator=list, **kwargs)
        if own_rank().world_size > 1:  # else all would draw the same answers
            set_seed(args.seed, device_specific=True)
        self.model_accepts_loss_kwargs = False  # the loss is a mean: it is divided by the batches
        self.num_iterations = args.num_ppo_epochs
        self.reward_funcs = reward_funcs
        self.value_head = torch.nn.Linear(hidden_size, 1).to(self.args.device)
        # It begins by expecting the same everywhere, so that chance does not shape the first steps.
        torch.nn.init.zeros_(self.value_head.weight)
        torch.nn.init.zeros_(self.value_head.bias)
        # Its gradient is of another scale, and must not shrink that of the policy.
        self.clipped_apart = list(self.value_head.parameters())
        # With adapters the reference is the model without them, and costs no memory; of one that is
        # gone on with, the adapter as it was, under the name that TRL gives it.
        has_adapter = hasattr(model, "disable_adapter")
        if has_adapter and goes_on:
            model.add_adapter(REFERENCE, model.peft_config["default"])
        self._reference = None if has_adapter else _frozen_copy(self.model)
        self._step = 0
        self._begins_step = True
        self._buffered_inputs: list[dict[str, Tensor]] | None = None
        self._metrics: dict[str, Any] = {"train": defaultdict(list), "eval": defaultdict(list)}

    # Data: every batch of the loader is the prompts of a whole rollout -------------------------

    def get_train_dataloader(self) -> Any:
        """Return prompts, each rollout's as often as it has batches to learn from."""
        return self._get_dataloader(
            dataset=self.train_dataset,
            description="Training",
            batch_size=self._train_batch_size * self.args.steps_per_generation,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return RepeatSampler(
            data_source=self.train_dataset if dataset is None else dataset,
            mini_repeat_count=1,
            batch_size=self._train_batch_size * self.args.steps_per_generation,
            repeat_count=self.args.steps_per_generation * self.num_iterations,
            seed=self.args.seed,
        )

    def _prepare_inputs(self, rows: Any) -> Any:
        """Return the batch to learn from: of a new rollout, or of the one in the buffer."""
        if not self.model.training:
            return self._rollout(rows, "eval")
        batches = self.args.steps_per_generation
        if self._step % batches == 0 or self._buffered_inputs is None:
            is_used_up = self._step % (batches * self.num_iterations) == 0
            if is_used_up or self._buffered_inputs is None:
                rollout = self._rollout(rows, "train")
            else:
                # A further pass over the same rollout, in another order.
                rollout = joined(self._buffered_inputs)
            self._buffered_inputs = split_tensor_dict(shuffle_sequence_dict(rollout), batches)
        return self._buffered_inputs[self._step % batches]

    # Rollouts ---------------------------------------------------------------------------------

    @torch.no_grad()
    def _rollout(self, rows: list[dict[str, Any]], mode: str) -> dict[str, Tensor]:
        """Answer prompts; return the answers with everything that is learnt from them."""
        with self._generating():
            batch, has_end = self._answers([row["prompt"] for row in rows])
            logps, states = self._read_all(self.model, batch)
            with self._as_reference() as reference:
                reference_logps, _ = self._read_all(reference, batch)
        scores = self._scores(rows, batch)
        rewarded = scores
        if self.args.missing_eos_penalty is not None:
            rewarded = scores - self.args.missing_eos_penalty * (~has_end).float()
        mask = batch["completion_mask"].float()
        divergence = (logps - reference_logps) * mask
        if mode == "train" and self._step == 0:
            # Ouyang et al. shift scores to a mean of 0. Expecting the mean does the same: else
            # the first lesson would be only that every answer is better than nothing.
            self.value_head.bias.fill_(self._mean(rewarded, torch.ones_like(rewarded)))
        rewards = token_rewards(rewarded, divergence, mask, self.args.beta)
        if self.args.whiten_rewards:
            rewards = whitened(rewards, mask, self._mean, shift_mean=False)
        values = self._values(states) * mask
        advantages, returns = advantages_of(
            rewards, values, mask, gamma=self.args.gamma, lam=self.args.lam
        )
        self._note(
            mode,
            reward=scores.mean(),
            reward_std=scores.std(correction=0),
            kl=divergence.sum(dim=1).mean(),
            **{"completions/mean_length": mask.sum(dim=1).mean()},
            **{"completions/clipped_ratio": (~has_end).float().mean()},
        )
        return {
            **batch,
            "logps": logps,
            "values": values,
            # Whitened over the rollout, so that the scale of the rewards does not act as a learning
            # rate.
            "advantages": whitened(advantages, mask, self._mean),
            "returns": returns,
        }

    @contextmanager
    def _generating(self) -> Iterator[None]:
        was_training = self.model.training
        self.model.eval()
        try:
            with self.compute_loss_context_manager():
                yield
        finally:
            self.model.train(was_training)

    @contextmanager
    def _as_reference(self) -> Iterator[Any]:
        """Yield the model as it was before training: by its first adapter, without any, or a copy."""
        if self._reference is not None:
            yield self._reference
            return
        model = self.accelerator.unwrap_model(self.model)
        with use_adapter(model, REFERENCE if REFERENCE in model.peft_config else None):
            yield self.model

    def _answers(self, prompts: list[Any]) -> tuple[dict[str, Tensor], Tensor]:
        ids, mask = prompt_tokens(prompts, self.processing_class, self.args.device)

        def answer(rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
            begin = int(mask[rows].argmax(1).min())  # the longest prompt of these has no padding
            model = self.accelerator.unwrap_model(self.model)
            with only_given_samplers(model):
                return generate(
                    model,
                    self.processing_class,
                    (ids[rows, begin:], mask[rows, begin:]),
                    max_new_tokens=self.args.max_completion_length,
                    temperature=self.args.temperature,
                    cached=self.answers_cached,
                )

        answers, answer_mask, has_end = together(
            self.in_groups(answer, mask.sum(1).tolist()), self.processing_class.pad_token_id
        )
        batch = {
            "prompt_ids": ids,
            "prompt_mask": mask,
            "completion_ids": answers,
            "completion_mask": answer_mask,
        }
        return batch, has_end

    def _scores(self, rows: list[dict[str, Any]], batch: dict[str, Tensor]) -> Tensor:
        """Return the sum of all rewards of each answer, of shape (batch,)."""
        prompts = [row["prompt"] for row in rows]
        ids, mask = batch["completion_ids"], batch["completion_mask"]
        completions = as_completions(prompts, ids, mask, self.processing_class)
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        columns |= {"prompts": prompts, "completions": completions}
        columns.pop("prompt")
        scores = [
            [math.nan if score is None else score for score in function(**columns)]
            for function in self.reward_funcs
        ]
        return summed(torch.tensor(scores, dtype=torch.float32, device=self.args.device))

    def _read_all(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return what is read of a rollout but the entropies, in parts where memory asks for it."""

        def of(rows: slice) -> tuple[Tensor, Tensor]:
            logps, _, states = self._read(model, {k: v[rows] for k, v in batch.items()})
            return logps, states

        logps, states = zip(*self.in_parts(of, len(batch["prompt_ids"])), strict=True)
        return torch.cat(logps), torch.cat(states)

    def scores(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """Return the log-likelihood of each token of an answer, as it is learned from."""
        return self._read(model, batch)[0]

    def _read(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        return read(model, batch, self.args.temperature)

    def _values(self, states: Tensor) -> Tensor:
        head = self.value_head
        with torch.autocast(self.args.device.type, enabled=False):
            # In float32 always: small errors of the value add up over the length of an answer.
            values: Tensor = head(states.float()).squeeze(-1)
        return values

    # Learning ---------------------------------------------------------------------------------

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Learn from one batch."""
        if self._begins_step:
            self.value_head.zero_grad()  # transformers does it for the model alone
        loss = super().training_step(*args, **kwargs)
        self._step += 1
        if self.accelerator.sync_gradients and own_rank().world_size > 1:
            # The value head lies beside the model, whose gradients are averaged by themselves.
            for weights in self.value_head.parameters():
                weights.grad = self.accelerator.reduce(weights.grad, "mean")
        # True after the last batch of an optimizer step, whose gradients have been used.
        self._begins_step = self.accelerator.sync_gradients
        return loss

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], **_: Any) -> Any:
        """Return the loss of policy and value head on one batch of a rollout."""
        mask = inputs["completion_mask"].float()
        logps, entropies, states = self._read(model, inputs)
        policy, clipped = policy_loss(
            logps, inputs["logps"], inputs["advantages"], mask, self.args.cliprange
        )
        value = value_loss(
            self._values(states),
            inputs["values"],
            inputs["returns"],
            mask,
            self.args.cliprange_value,
        )
        entropy = masked_mean(entropies.detach(), mask)
        self._note("train", policy_loss=policy, value_loss=value, clipfrac=clipped, entropy=entropy)
        return policy + self.args.vf_coef * value

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Answer held-out prompts; the metrics show how well."""
        self._prepare_inputs(inputs)
        return None, None, None

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Return transformers' optimizer, which trains the value head too."""
        if self.optimizer is None:
            super().create_optimizer(*args, **kwargs)
            head = {"params": list(self.value_head.parameters()), "weight_decay": 0.0}
            optimizer: Any = self.optimizer
            # Here, where the scheduler is not made yet, so that it schedules this group too.
            optimizer.add_param_group(head)
        return self.optimizer

    # What is logged and saved -----------------------------------------------------------------

    def _mean(self, values: Tensor, mask: Tensor) -> Tensor:
        """Return the mean over what counts in all processes."""
        if own_rank().world_size == 1:
            return masked_mean(values, mask)
        sums = torch.stack([(values * mask).sum(), mask.sum()])
        total, count = self.accelerator.reduce(sums, "sum")
        mean: Tensor = total / count.clamp(min=1)
        return mean

    def _note(self, mode: str, **metrics: Tensor) -> None:
        values = torch.stack([*metrics.values()]).detach()
        if own_rank().world_size > 1:  # as all of them see it
            values = self.accelerator.reduce(values, "mean")
        for name, value in zip(metrics, values.tolist(), strict=True):
            self._metrics[mode][name].append(value)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the means of what was noted since the last time."""
        mode = "train" if self.model.training else "eval"
        prefix = "" if mode == "train" else "eval_"
        for name, values in self._metrics[mode].items():
            logs[f"{prefix}{name}"] = math.fsum(values) / len(values)
        self._metrics[mode].clear()
        super().log(logs, *args, **kwargs)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if not own_rank().is_first:  # it is the same in all processes
            return
        state = {name: value.cpu() for name, value in self.value_head.state_dict().items()}
        save_file(state, Path(output_dir) / VALUE_HEAD)

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.value_head.load_state_dict(load_file(Path(checkpoint) / VALUE_HEAD))


def _frozen_copy(model: Any) -> Any:
    return copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
