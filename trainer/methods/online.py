"""What grpo, rloo and ppo share: rollouts that a checkpoint holds, and a check for enough data.

They generate answers now and then and learn from them over several steps. transformers knows
nothing of that buffer, so a resumed run would generate anew, and other answers than before.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import safe_open
from transformers import GenerationConfig, Trainer
from trl.trainer.utils import split_tensor_dict

from trainer.config.generation import generation_arguments
from trainer.contract import checkpoints
from trainer.contract.errors import DataError
from trainer.contract.world import Rank, own_rank
from trainer.engine.attention import without_adapters
from trainer.engine.collectives import all_to_first
from trainer.engine.job_trainer import JobTrainer, TrainingRun
from trainer.engine.summed_lora import summed
from trainer.methods.aligned import Aligned
from trainer.methods.assembly import assemble
from trainer.methods.rollouts_proven import prove_rollouts
from trainer.rewards.assembly import rewards_of
from trainer.rewards.counts import Counts, cost, notes_of, sentences

T = TypeVar("T")
Batch = dict[str, Any]
"""Tensors by name, with the answers along their first dimension; None where one is absent."""

ROLLOUTS = "rollouts.safetensors"


class RolloutTrainer(JobTrainer):
    """The mixin before a trainer that generates: TRL's GRPOTrainer or RLOOTrainer, or ours.

    It knows TRL's names for what they keep: `_step` counts batches, `_buffered_inputs` are the
    batches of one rollout, each used `num_iterations` times.
    """

    args: Any
    model: Any
    _step: int
    _buffered_inputs: Any
    _metrics: dict[str, Any]
    num_iterations: int
    reward_counts: Counts
    answers_together = True
    """Whether prompts of several lengths are answered at once, padded on the left."""
    answers_cached = True
    """Whether a cache holds what was computed of earlier tokens."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, and say what scoring came to."""
        result = super().train(*args, **kwargs)
        counts = counts_of_all(self.reward_counts)
        asked = [f"the judge: {found}"] if (found := cost(counts)) else []
        for line in [*sentences(counts), *asked]:
            print(line, flush=True)  # noqa: T201 - standard output is the job's log
        return result

    def answer_by(self, *, together: bool, cached: bool) -> None:
        """Write answers so: see `trainer.methods.rollouts_proven`."""
        self.answers_together, self.answers_cached = together, cached

    def in_groups(
        self, work: Callable[[list[int]], T], lengths: list[int]
    ) -> list[tuple[list[int], T]]:
        """Return what `work` makes of rows that may be answered at once, with their numbers.

        Args:
            work: takes the numbers of some rows.
            lengths: tokens of each row's prompt.
        """
        rows = range(len(lengths))
        groups = [
            [row for row in rows if self.answers_together or lengths[row] == length]
            for length in ([0] if self.answers_together else sorted(set(lengths)))
        ]

        def worked(group: list[int], part: slice) -> tuple[list[int], T]:
            return group[part], work(group[part])

        return [
            *chain.from_iterable(
                self.in_parts(partial(worked, group), len(group)) for group in groups
            )
        ]

    def count(self, inputs: Any) -> None:
        """Count nothing yet: these are prompts, and what is trained on is still to be made."""

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Return the batch to learn from; prompts become prompts with answers."""
        prepared = super()._prepare_inputs(inputs)  # type: ignore[misc] # mixin
        if self.model.training:
            # An answer that is used in several steps counts each time, as a row of several epochs
            # does.
            masks = prepared["prompt_mask"], prepared["completion_mask"]
            self.tokens_seen += sum(mask.sum() for mask in masks)
            self.samples_seen += masks[0].shape[0]
        return prepared

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """Return minus the mean reward as the loss: that of learning says nothing of success."""
        super().prediction_step(*args, **kwargs)
        reward = self._metrics["eval"]["reward"][-1]
        return torch.tensor(-reward, device=self.args.device), None, None

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """Return TRL's sampler, made to give every epoch an order that a resumed run has too."""
        sampler = super()._get_train_sampler(dataset)
        if sampler.shuffle:
            # Otherwise its generator goes on from wherever it was, which a resumed run does not
            # know.
            sampler.set_epoch = lambda epoch: sampler.generator.manual_seed(sampler.seed + epoch)
        return sampler

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # Then the next step generates anew, and the checkpoint need not carry the old rollout.
        used_up = self._step % (self.args.steps_per_generation * self.num_iterations) == 0
        rollout = {} if used_up else joined(self._buffered_inputs or [])
        record = {
            "batches": self._step,
            "batch_size": self.args.per_device_train_batch_size,
            # safetensors has no None.
            "absent": [name for name, value in rollout.items() if value is None],
            "metrics": self._metrics["train"],
            "tokens": getattr(self, "_total_train_tokens", 0),
            "parts": self.parts,
            "reward_counts": self.reward_counts.by_name,
        }
        tensors = {k: v.contiguous().cpu() for k, v in rollout.items() if v is not None}
        path = Path(output_dir) / rollouts_of(own_rank())
        # By its module, where `saving.writes_put_off` puts another in its place meanwhile.
        safetensors.torch.save_file(tensors, path, metadata={"record": json.dumps(record)})
        self.to_first_machine(path)

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        rank, before = own_rank(), checkpoints.processes_of(Path(checkpoint))
        same = before == rank.world_size
        of = rank if same else Rank(world_size=before)
        self._load_rollout(Path(checkpoint) / rollouts_of(of), whole=same)

    def _load_rollout(self, path: Path, *, whole: bool) -> None:
        """Take up the buffer, in batches of today's size: memory may have run out in between.

        Args:
            path: of what a process had.
            whole: as many processes go on; others divide the prompts otherwise, and answer anew.
        """
        device = self.args.device
        # Of several processes it is cpu:0, which safetensors does not know.
        where = str(device) if device.type != "cpu" else "cpu"
        with safe_open(path, framework="pt", device=where) as stream:
            record = json.loads(stream.metadata()["record"])
            names = stream.keys() if whole else []
            rollout = {name: stream.get_tensor(name) for name in names}
        # In batches of the present size: after memory ran out the same rollout has more of them.
        self._step = (
            record["batches"] * record["batch_size"] // self.args.per_device_train_batch_size
        )
        self._metrics["train"].update(record["metrics"])
        self._total_train_tokens = record["tokens"]
        self.parts = record.get("parts", 1)
        self.reward_counts.take_up(record.get("reward_counts", {}))
        if rollout:
            rollout |= dict.fromkeys(record["absent"])
            self._buffered_inputs = split_tensor_dict(rollout, self.args.steps_per_generation)


def rollouts_of(rank: Rank) -> str:
    """Return the name of the file that holds the answers of a process."""
    return ROLLOUTS if rank.world_size == 1 else ROLLOUTS.replace(".", f"_{rank.rank}.")


def counts_of_all(counts: Counts) -> dict[str, int]:
    """Return what all processes have counted; nothing but to the first. All must ask."""
    every: Counter[str] = Counter()
    for by_name in all_to_first(counts.by_name):
        every.update(by_name)
    return dict(every)


@contextmanager
def only_given_samplers(model: Any) -> Iterator[None]:
    """Draw tokens by the settings of the method alone.

    transformers takes from the model's own generation config what these leave open, such as `min_p`;
    but the loss is about the policy that drew the tokens.
    """
    base = without_adapters(model)
    own = base.generation_config
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "cache_implementation")
    base.generation_config = GenerationConfig(**{name: getattr(own, name) for name in names})
    try:
        yield
    finally:
        base.generation_config = own


class TRLRolloutTrainer(RolloutTrainer):
    """The mixin before TRL's GRPOTrainer and RLOOTrainer."""

    generation_config: Any

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Return the answers as TRL does, written in parts where they do not fit at once."""
        generate = super()._generate_single_turn  # type: ignore[misc] # mixin

        def answer(rows: list[int]) -> Any:
            # None for text, which is all that our datasets hold.
            of_rows = images and [images[row] for row in rows]
            return generate([prompt_ids[row] for row in rows], of_rows, *args, **kwargs)

        # Where weights are split, a layer has its own only when it is called.
        whole = self.run.config.parallelism == "ddp"
        with only_given_samplers(self.model), summed(self.model) if whole else nullcontext():
            if args[0]:  # multimodal fields are not one an answer
                return generate(prompt_ids, images, *args, **kwargs)
            return _all_answers(self.in_groups(answer, [*map(len, prompt_ids)]))

    def answer_by(self, *, together: bool, cached: bool) -> None:
        """Write answers so."""
        super().answer_by(together=together, cached=cached)
        if not cached:
            self.generation_config.use_cache = False

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Return what TRL makes of each token of an answer, of rows that begin in one column."""
        rows = Aligned.of(input_ids, attention_mask, logits_to_keep)
        score = super()._get_per_token_logps_and_entropies  # type: ignore[misc] # mixin
        logps, entropies, routers = score(model, rows.ids, rows.mask, rows.scored, *args, **kwargs)
        entropies = entropies if entropies is None else rows.answers(entropies)
        return rows.answers(logps), entropies, routers

    def scores(self, model: Any, batch: Batch) -> torch.Tensor:
        """Return the log-likelihood of each token of an answer, as it is learned from.

        Args:
            model: the trainer's own.
            batch: prompt_ids, prompt_mask, completion_ids and completion_mask.
        """
        ids, mask = (
            torch.cat([batch[f"prompt_{name}"], batch[f"completion_{name}"]], dim=1)
            for name in ("ids", "mask")
        )
        scored: torch.Tensor = self._get_per_token_logps_and_entropies(
            model,
            ids,
            mask,
            batch["completion_ids"].shape[1],
            compute_aux_loss=getattr(self, "aux_loss_enabled", False),
        )[0]
        return scored


def _all_answers(parts: list[tuple[list[int], Any]]) -> Any:
    """Return all answers by row: lists, or as GRPO has them with their logprobs or None."""
    if not isinstance(parts[0][1], tuple):
        return _by_row((rows, answers) for rows, answers in parts)
    answers = _by_row((rows, answers) for rows, (answers, _) in parts)
    has_logprobs = parts[0][1][1] is not None
    return answers, _by_row((rows, known) for rows, (_, known) in parts) if has_logprobs else None


def _by_row(parts: Iterable[tuple[list[int], list[T]]]) -> list[T]:
    """Return in one list, by their numbers, what was made of some rows each."""
    found = {row: one for rows, made in parts for row, one in zip(rows, made, strict=True)}
    return [found[row] for row in sorted(found)]


def joined(batches: list[Batch]) -> Batch:
    """Return the batches as one; a single number, or nothing, is the same in all of them."""

    def join(name: str) -> torch.Tensor | None:
        values = [batch[name] for batch in batches]
        tensors = [value for value in values if value is not None and value.ndim]
        return torch.cat(tensors) if tensors else values[0]

    return {name: join(name) for name in (batches[0] if batches else {})}


def build_online(
    run: TrainingRun,
    kind: type[Any],
    mixin: type[RolloutTrainer] = TRLRolloutTrainer,
    **options: Any,
) -> Trainer:
    """Return the trainer of a method that generates.

    Args:
        run: its inputs.
        kind: the trainer's class.
        mixin: what comes before it.
        options: further arguments, None where TRL's own default is wanted.

    Raises:
        DataError: there are too few prompts for one rollout.
        ConfigError: see `rewards_of` and `prove_rollouts`.
    """
    config = run.config
    device = "cuda" if torch.cuda.is_available() else "cpu"
    columns, cache, counts = run.train_dataset.column_names, run.directory.cache, Counts()
    trainer = assemble(
        run,
        kind,
        mixin=mixin,
        trainer_options={
            "reward_funcs": rewards_of(config, columns, device, cache=cache, counts=counts),
            **options.pop("trainer_options", {}),
        },
        **generation_arguments(config),
        **options,
    )
    trainer.reward_counts = counts
    # Waiting for a judge is no stall: it has time limits of its own.
    counts.alive = trainer.heartbeat.beat
    run.notes = lambda: notes_of(counts_of_all(counts))
    # Found before training: without one full rollout there is not a single step to make.
    sampler = trainer._get_train_sampler(run.train_dataset)
    if len(sampler) == 0:
        raise DataError(
            f"{config.dataset.title}: {len(run.train_dataset)} prompts are left to train on, and "
            f"{sampler.batch_size} are answered at a time.",
            "Add rows, or lower per_device_train_batch_size or gradient_accumulation_steps.",
        )
    prove_rollouts(run, trainer)
    return trainer
