"""What the trainers of all methods share: a run's inputs, token counts, and safe checkpoints."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import safetensors.torch
import torch
from safetensors.torch import load_file
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from trainer.config import TrainingConfig
from trainer.contract import checkpoints
from trainer.contract.errors import DiskFull
from trainer.contract.events import Kind, note_event
from trainer.contract.files import read_json, replace_json
from trainer.contract.job_directory import JobDirectory
from trainer.contract.world import own_rank
from trainer.engine import saving
from trainer.engine.by_source import BySource
from trainer.engine.collectives import all_to_first, highest, wait_for_all
from trainer.engine.divergence import Recent, diverged, lower_rates
from trainer.engine.failures import tensors_expected, translate
from trainer.engine.heartbeat import Heartbeat
from trainer.engine.parallelism import in_parts, is_sharded
from trainer.engine.sharded_trainer import Sharded
from trainer.engine.smaller_parts import InParts
from trainer.engine.stream import STREAM, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


T = TypeVar("T")
REFERENCE = "reference.safetensors"
"""In checkpoints of a training whose reference moves."""
MASKS = ("attention_mask", "chosen_attention_mask", "rejected_attention_mask")


@dataclass(kw_only=True)
class TrainingRun:
    """What a method needs to build its trainer."""

    config: TrainingConfig
    directory: JobDirectory
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    train_dataset: Dataset | Stream
    """See `trainer.data.tokenization.PreparedData`."""
    eval_dataset: Dataset | DatasetDict | None
    batch_divisor: int = 1
    learning_rate_factor: float = 1.0
    """See `Status`, as for `batch_divisor`."""
    inputs: dict[str, str] = field(default_factory=dict)
    """What is learned from, for the checkpoints: see `trainer.training.inputs`."""
    batch: dict[str, int] = field(default_factory=dict)
    """How many examples a step has, for the checkpoints: see `trainer.training.resuming`."""
    notes: Callable[[], dict[str, Any]] = dict
    """What the method has found out while it trained, for the manifest and the report."""
    protected_steps: Callable[[], set[int]] = field(default=set)
    """Steps whose checkpoints are kept whatever `save_total_limit` says, such as the best."""

    @property
    def evaluates_on_start(self) -> bool:
        """Whether there are rows to evaluate on, and the job asks for it."""
        return self.eval_dataset is not None and self.config.eval_on_start

    @property
    def streamed(self) -> dict[str, Any]:
        """What became of the rows of a stream that were read so far; empty for other data."""
        rows = self.train_dataset
        return rows.facts if isinstance(rows, Stream) else {}

    def with_room(self, work: Callable[[], T]) -> T:
        """Do `work`; where the disk is full, once more with the newest and best checkpoint only."""
        folder = self.directory.checkpoints
        try:
            return work()
        except Exception as error:
            full = isinstance(translate(error, folder), DiskFull)
            removed = checkpoints.prune(folder, 1, self.protected_steps()) if full else []
            if not removed:
                raise
        names = [checkpoint.name for checkpoint in removed]
        line = f"the disk is full: removed {', '.join(names)} and save again"
        print(line, flush=True)  # noqa: T201 - standard output is the job's log
        note_event(self.directory, Kind.DISK_FULL, line, removed=names)
        return work()


class CopiesFirst(TrainerCallback):  # type: ignore[misc] # transformers is not checked
    """Lets the optimizer wait until what it is about to change is copied."""

    def __init__(self, copies: saving.Copies) -> None:
        self._copies = copies

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Wait."""
        self._copies.wait()


class JobTrainer(Sharded, InParts, BySource):
    """A mixin before a transformers Trainer: counts tokens, and saves as `trainer.contract.checkpoints`."""

    def __init__(self, run: TrainingRun, **kwargs: Any) -> None:
        self.run = run
        self.tokens_seen: Any = 0  # a tensor on the GPU: no synchronisation until it is logged
        self.samples_seen: Any = 0  # see tokens_seen
        self.saves, self.copies = saving.Saves(), saving.Copies()
        self.heartbeat = Heartbeat(run.directory.pulse)
        # Set by a trainer of which a part has gradients of another scale.
        self.clipped_apart: list[torch.nn.Parameter] = []
        self.recent = Recent(kwargs["args"].gradient_accumulation_steps)
        super().__init__(**kwargs)
        self.add_callback(CopiesFirst(self.copies))  # type: ignore[attr-defined] # mixin

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; whichever way it ends, the last save is over by then."""
        with self.heartbeat, self.saves, self._sparing():
            return super().train(*args, **kwargs)  # type: ignore[misc] # mixin

    @contextmanager
    def _sparing(self) -> Iterator[None]:
        """Spare each step two walks over all modules, and each save the card that PEFT writes.

        With adapters there are many modules, and few of their parameters have gradients. No checkpoint
        keeps the card.
        """
        model: Any = self.model  # type: ignore[attr-defined] # mixin

        def train(mode: bool = True) -> Any:  # noqa: FBT001, FBT002 - as torch has it
            return model if model.training == mode else type(model).train(model, mode)

        model.train()  # adapters make a new root, which says so of itself alone
        model.train = train
        # The optimizer has exactly the parameters that have gradients; the model has all of them.
        model.zero_grad = lambda: self.optimizer.zero_grad()  # type: ignore[attr-defined] # mixin
        model.create_or_update_model_card = lambda _folder: None
        try:
            yield
        finally:
            del model.train, model.zero_grad, model.create_or_update_model_card

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clip what the optimizer has, where that is all there is: see `_sparing`."""
        if self.args.parallel_mode.name != "NOT_PARALLEL":
            norm = super()._clip_grad_norm(model)  # type: ignore[misc] # mixin
        else:
            groups = self.optimizer.param_groups  # type: ignore[attr-defined] # mixin
            apart = {id(parameter) for parameter in self.clipped_apart}
            trained = [p for group in groups for p in group["params"] if id(p) not in apart]
            norm = self.accelerator.clip_grad_norm_(trained, self.args.max_grad_norm)  # type: ignore[attr-defined] # mixin
        if self.clipped_apart:
            torch.nn.utils.clip_grad_norm_(self.clipped_apart, self.args.max_grad_norm)
        return norm

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Train on one batch."""
        self.heartbeat.beat()
        # A save that failed in the background must end the training here, at the next batch, and
        # not hours later at the next save.
        self.saves.check()
        self.count(inputs)
        loss = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc] # mixin
        self.recent.add(loss, inputs)
        return loss

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate one batch."""
        self.heartbeat.beat()
        return super().prediction_step(*args, **kwargs)  # type: ignore[misc] # mixin

    def count(self, inputs: dict[str, Any]) -> None:
        """Count what is trained on: masks are of shape (batch, length), one or one an answer."""
        if "position_ids" in inputs:  # no padding: each document's positions begin at 0
            self.tokens_seen += inputs["input_ids"].numel()
            self.samples_seen += (inputs["position_ids"] == 0).sum()
            return
        masks = [inputs[name] for name in MASKS if name in inputs] or [inputs["input_ids"] >= 0]
        self.tokens_seen += sum(mask.sum() for mask in masks)
        self.samples_seen += masks[0].shape[0]

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """Return the sampler; one that groups by length gets an order that a resumed run has too.

        transformers lets it draw from the global generator, which a resume sets later.
        """
        rows = self.train_dataset if dataset is None else dataset  # type: ignore[attr-defined] # mixin
        if isinstance(rows, Stream):  # which is shuffled within its pieces
            return SequentialSampler(rows)
        sampler = super()._get_train_sampler(dataset)  # type: ignore[misc] # mixin
        if isinstance(sampler, LengthGroupedSampler):
            # accelerate calls set_epoch() at every epoch, also when a resumed run skips to one.
            generator = torch.Generator()
            sampler.generator = generator
            sampler.set_epoch = lambda epoch: generator.manual_seed(self.run.config.seed + epoch)
        return sampler

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: nothing reads the sum, and counting would walk all parameters at every step."""
        return 0

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.run.directory.checkpoints / checkpoints.STAGING)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save; with `async_save` this returns when what else could change it first is copied."""
        self._refuse_broken_weights()
        # One staging folder, one thread: the save before must be in its place.
        self.saves.wait()
        folder, rank = self.run.directory.checkpoints, own_rank()
        # Only the first process has time: the others' files must be there when it ends the save,
        # and those of other machines are sent here from the disk.
        waits = (
            not self.run.config.async_save
            or not rank.is_first
            or is_sharded(self)
            or rank.on_several_machines
        )

        def save() -> list[saving.Write]:
            if rank.is_first_here:
                shutil.rmtree(folder / checkpoints.STAGING, ignore_errors=True)
            # The first process of each machine has emptied the folder before any other writes into
            # it.
            wait_for_all()
            if is_sharded(self):  # all write their own, and nothing may be put off to the first
                Trainer._save_checkpoint(self, model, trial)
                return []
            budget = 0 if waits else saving.memory_for_copies()
            with saving.writes_put_off(budget, self.copies, self._steady()) as writes:
                # Not TRL's own, which writes a model card at every checkpoint.
                Trainer._save_checkpoint(self, model, trial)
            return writes

        with named_failures(folder):
            # The other ranks would not save once more.
            writes = self.run.with_room(save) if rank.world_size == 1 else save()
        if in_parts(self):
            with named_failures(folder):
                return self.keep_part()
        wait_for_all()
        if not rank.is_first:
            if rank.is_first_here:  # of another machine, whose part is with the first by now
                shutil.rmtree(folder / checkpoints.STAGING, ignore_errors=True)
            return None
        # From here on training may change the weights: what is written are the copies.
        self.saves.begin(partial(self._finish_save, self.state.global_step, writes))
        if waits:
            self.saves.wait()
        return None

    def _steady(self) -> set[int]:
        """Return where the memory is that nothing changes before the next step of the optimizer."""
        # The user's own code, and a model's, may do what they like to the weights.
        if self.run.config.callbacks or self.run.config.trust_remote_code:
            return set()
        return saving.steady_memory(self.model, self.optimizer)  # type: ignore[attr-defined] # mixin

    def _finish_save(self, step: int, writes: list[saving.Write]) -> None:
        """Write what was put off, and let the checkpoint take its place; in the background."""
        folder, stream = self.run.directory.checkpoints, self.stream_state()

        def finish() -> Path:
            for write in writes:
                write()
            staged = folder / checkpoints.STAGING / f"checkpoint-{step}"
            self.describe(staged, stream)
            return checkpoints.commit(
                staged, folder, processes=own_rank().world_size, batch=self.run.batch
            )

        with named_failures(folder):
            saved = self.run.with_room(finish)
        self.kept(saved)

    def stream_state(self) -> dict[str, Any] | None:
        """Return how far the rows of a stream were read; None for other data."""
        rows = self.run.train_dataset
        return rows.state() if isinstance(rows, Stream) else None

    def describe(self, staged: Path, stream: dict[str, Any] | None) -> None:
        """Write beside a checkpoint what it was learned from."""
        replace_json(staged / checkpoints.INPUTS, self.run.inputs)
        if stream is not None:
            replace_json(staged / STREAM, stream)

    def kept(self, saved: Path) -> None:
        """Remove older checkpoints, now that the new one is in its place, and say so."""
        folder = self.run.directory.checkpoints
        checkpoints.prune(folder, self.run.config.save_total_limit, self.run.protected_steps())
        line, step = f"saved {saved.name}", checkpoints.step_of(saved)
        if own_rank().is_first:
            note_event(self.run.directory, Kind.SAVED, line, step=step, checkpoint=saved.name)
        print(line, flush=True)  # noqa: T201 - standard output is the job's log

    def _refuse_broken_weights(self) -> None:
        """Refuse to save NaN over the last good checkpoint; not every step logs its loss."""
        trained = [p for p in self.model.parameters() if p.requires_grad]  # type: ignore[attr-defined] # mixin
        # What one process holds may be whole and another's not: all must raise alike.
        if self.run.config.shards:
            trained = self.sharding.local_parts(trained)
        [broken] = highest([bool(trained) and not saving.all_finite(trained)])
        if broken:
            step = self.state.global_step
            raise diverged(f"After step {step} a weight was NaN or infinite", self.state)

    def _save_rng_state(self, output_dir: str) -> None:
        """Save this process's; the first machine gets those of the others, whose disk is another."""
        super()._save_rng_state(output_dir)  # type: ignore[misc] # mixin
        rank = own_rank()
        if rank.is_first and (reference := self._moving_reference()):
            tensors = {name: weights.data.contiguous() for name, weights in reference.items()}
            # By its module, where `saving.writes_put_off` puts another in its place meanwhile.
            safetensors.torch.save_file(tensors, Path(output_dir) / REFERENCE)
        self.to_first_machine(Path(output_dir) / f"rng_state_{rank.rank}.pth")

    def to_first_machine(self, path: Path) -> None:
        """Bring a file of this process to the machine whose checkpoint is the job's."""
        rank = own_rank()
        if not rank.on_several_machines or in_parts(self):
            return
        # Those of this machine are on the disk of the first process already.
        elsewhere = not rank.on_first_machine
        for name, content in all_to_first((path.name, path.read_bytes() if elsewhere else None)):
            if content is not None:
                (path.parent / name).write_bytes(content)

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        with tensors_expected(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
            if checkpoint is not None and (reference := self._moving_reference()):
                for name, saved in load_file(Path(checkpoint) / REFERENCE).items():
                    reference[name].data.copy_(saved)
        rows = self.run.train_dataset
        known = read_json(Path(checkpoint) / STREAM) if checkpoint is not None else None
        # Without it the rows before are read and tokenised once more, to the same end.
        if known and isinstance(rows, Stream):
            rows.restore(known)
        if checkpoint is not None and self.run.learning_rate_factor != 1:
            # The checkpoint holds the rates that diverged; transformers has just loaded them.
            lower_rates(self.optimizer, self.lr_scheduler, self.args.learning_rate)  # type: ignore[attr-defined] # mixin

    def _moving_reference(self) -> dict[str, Any]:
        """Return the weights of a reference that follows the model (`sync_ref_model`), by name."""
        moves = getattr(self.args, "sync_ref_model", False)
        reference = getattr(self, "ref_model", None) if moves else None
        return {} if reference is None else dict(reference.named_parameters())

    def _load_rng_state(self, checkpoint: Any) -> None:
        with tensors_expected(checkpoint):
            super()._load_rng_state(checkpoint)  # type: ignore[misc] # mixin


@contextmanager
def named_failures(folder: Path) -> Iterator[None]:
    """Name what goes wrong in a save, and leave nothing half-written: the disk may be full."""
    try:
        yield
    except Exception as error:
        shutil.rmtree(folder / checkpoints.STAGING, ignore_errors=True)
        raise translate(error, folder, needed=checkpoints.size_of_newest(folder)) from error
