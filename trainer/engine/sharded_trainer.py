"""What trainers of a model that is split across processes do differently: see `trainer.engine.sharding`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from trainer.contract import checkpoints
from trainer.contract.parts import common_files, part_facts
from trainer.contract.world import own_rank
from trainer.engine.collectives import of_first, wait_for_all
from trainer.engine.failures import tensors_expected

SCHEDULER = "scheduler.pt"


class Sharded:
    """A mixin before a transformers Trainer: saves and loads a split model by its shards."""

    run: Any

    @property
    def sharding(self) -> Any:
        """What only a split model needs, and takes a moment to import."""
        return importlib.import_module("trainer.engine.sharding")

    def create_accelerator_and_postprocess(self) -> None:
        """Make what splits the work among processes."""
        super().create_accelerator_and_postprocess()  # type: ignore[misc] # mixin
        if self.run.config.shards:
            self.sharding.switch_on(self)

    def keep_part(self) -> None:
        """Let the part of a checkpoint that each machine has saved take its place."""
        trainer: Any = self
        rank, folder = own_rank(), self.run.directory.checkpoints
        staged = folder / checkpoints.STAGING / f"checkpoint-{trainer.state.global_step}"
        if rank.is_first:
            trainer.describe(staged, trainer.stream_state())
        wait_for_all()  # what the processes beside the first of a machine have written is there
        # So that each part is all that its machine needs to go on.
        save, common = of_first(lambda: (uuid4().hex, common_files(staged)))
        if rank.is_first_here:
            for name, content in {} if rank.is_first else common.items():
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                (staged / name).write_bytes(content)
            facts = {"batch": self.run.batch, **part_facts(rank, save)}
            saved = checkpoints.commit(staged, folder, processes=rank.world_size, **facts)
        wait_for_all()  # an older one goes when all parts of the newer are in their places
        if rank.is_first_here:
            trainer.kept(saved)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.run.config.shards:
            super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc] # mixin
            return
        trainer: Any = self
        self.sharding.save(self, Path(output_dir))
        if own_rank().is_first:
            torch.save(trainer.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
        if not self.run.config.shards:
            super()._load_from_checkpoint(checkpoint, model)  # type: ignore[misc] # mixin
            return
        self.sharding.split_model(self)
        with tensors_expected(checkpoint):
            self.sharding.load(self, Path(checkpoint), optimizer=False)

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        if not self.run.config.shards or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc] # mixin
            return
        trainer: Any = self
        with tensors_expected(checkpoint):
            self.sharding.load(self, Path(checkpoint), optimizer=True)
            saved = torch.load(Path(checkpoint) / SCHEDULER, weights_only=True)
        trainer.lr_scheduler.load_state_dict(saved)
