"""A model split across processes by PyTorch's FSDP, and its checkpoints in parts.

With `fsdp` all processes together hold the model once; with `fsdp_hybrid` those of each machine do,
and the machines average their gradients. Each process writes what it holds into the folder `shards`
by torch.distributed.checkpoint, on the disk of its own machine, so nobody ever needs the memory or
the disk for all of it. What every process has alike, such as the settings of the optimizer, is in one
small file beside.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from trainer.contract.checkpoints import SHARDS
from trainer.contract.errors import ConfigError, TrainingFailed
from trainer.contract.world import own_rank
from trainer.engine import collectives
from trainer.engine.parallelism import is_hybrid, plain_name

ALIKE = "alike.pt"
"""What every process has alike; beside the shards."""
OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)
"""Frozen weights are those of the base model, which is loaded anyway. Not strict, for these lack."""
METADATA = "torch.distributed.checkpoint.metadata"
DESCRIPTIONS = {
    *((METADATA, name) for name in ("Metadata", "MetadataIndex", "StorageMeta")),
    *((METADATA, name) for name in ("TensorStorageMetadata", "TensorProperties")),
    *((METADATA, name) for name in ("ChunkStorageMetadata", "_MEM_FORMAT_ENCODING")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
}
"""What the file that says where the tensors are may be made of."""


def switch_on(trainer: Any) -> None:
    """Let accelerate split the model of a trainer of transformers, also where there is no GPU."""
    from accelerate.parallelism_config import ParallelismConfig
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    state, rank = trainer.accelerator.state, own_rank()
    if not trainer.is_fsdp_enabled:
        # accelerate switches it on for GPUs alone; torch splits on CPUs just as well, over gloo.
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
        state.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        trainer.is_fsdp_enabled = True
    if is_hybrid(trainer) and rank.on_several_machines:
        # Set afterwards: the Accelerator's own check knows GPUs only.
        names = ("dp_replicate", "dp_shard")  # as accelerate's data loaders look for them
        sizes = (rank.world_size // rank.local_world_size, rank.local_world_size)

        class Hybrid(ParallelismConfig):  # type: ignore[misc] # accelerate is not checked
            # accelerate would slice a flattened mesh, which torch warns of.
            fsdp_dim_names = names

        config = Hybrid(**{f"{name}_size": n for name, n in zip(names, sizes, strict=True)})
        device = trainer.accelerator.device.type
        config.device_mesh = init_device_mesh(device, sizes, mesh_dim_names=names)
        state.parallelism_config, state.device_mesh = config, config.device_mesh


def split_model(trainer: Any) -> None:
    """Split a model that is not going to be trained any more, as training would have."""
    if not any(isinstance(weights, DTensor) for weights in trainer.model.parameters()):
        optimizer = trainer.create_optimizer()
        model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, optimizer)
        trainer.model = trainer.model_wrapped = model


def local_parts(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return what this process holds of tensors, without what is empty."""
    held = [one.to_local() if isinstance(one, DTensor) else one for one in tensors]
    return [one for one in held if one.numel()]


def save(trainer: Any, folder: Path) -> None:
    """Write what this process holds of weights and optimizer; all processes must come here.

    Args:
        trainer: of transformers.
        folder: the checkpoint on this machine's disk.

    Raises:
        ConfigError: the optimizer keeps what is another in each process and cannot be put together.
    """
    split, alike = _parted(*_states(trainer))
    buffer = io.BytesIO()
    torch.save(alike, buffer)
    content = buffer.getvalue()
    mark = hashlib.sha256(content).hexdigest()
    if collectives.of_first(lambda: mark) != mark:
        raise _unlike(trainer)
    group = _group(trainer)
    # Of equal copies the first machine's is kept; the others hold the same.
    if is_hybrid(trainer) and not own_rank().on_first_machine:
        return
    (folder / SHARDS).mkdir(parents=True, exist_ok=True)
    writer = _Writer(folder / SHARDS)
    planner = DefaultSavePlanner(dedup_save_to_lowest_rank=True)
    with _own_errors():
        save_shards(split, storage_writer=writer, planner=planner, process_group=group)
    if own_rank().is_first:
        (folder / SHARDS / ALIKE).write_bytes(content)


def load(trainer: Any, folder: Path, *, optimizer: bool) -> None:
    """Read what this process holds, by whatever number of processes it was written.

    Args:
        trainer: of transformers, whose model is split.
        folder: the checkpoint.
        optimizer: read the state of the optimizer, else the weights.

    Raises:
        UnpicklingError: a file wants more than to make tensors.
    """
    model, state = _states(trainer)
    split, _ = _parted({} if optimizer else model, state if optimizer else {})
    reader = _Reader(str(folder / SHARDS))
    reader.read_metadata()  # what is wrong with it, torch would say in other words
    with _own_errors():
        load_shards(split, storage_reader=reader, process_group=_group(trainer))
    path = folder / SHARDS / ALIKE
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if not optimizer:
        found = model | saved["model"]
        set_model_state_dict(trainer.model, found, options=OPTIONS)
        return
    states = {name: {**own, **saved["state"].get(name, {})} for name, own in state["state"].items()}
    found = {"state": states, "param_groups": saved["param_groups"]}
    set_optimizer_state_dict(trainer.model, trainer.optimizer, found, options=OPTIONS)


def _states(trainer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    model = get_model_state_dict(trainer.model, options=OPTIONS)
    trained = {name for name, one in trainer.model.named_parameters() if one.requires_grad}
    # Weights that go by two names are there by both, frozen ones too: torch leaves out one name.
    names = {name for name, _ in trainer.model.named_parameters(remove_duplicate=False)}
    for name in map(plain_name, names - trained):
        model.pop(name, None)
    return model, get_optimizer_state_dict(trainer.model, trainer.optimizer, options=OPTIONS)


def _parted(
    model: dict[str, Any], optimizer: dict[str, Any]
) -> tuple[dict[str, DTensor], dict[str, Any]]:
    """Return what is split, by names of its own, and what every process has alike."""
    split = {f"model.{name}": one for name, one in model.items() if isinstance(one, DTensor)}
    alike: dict[str, Any] = {
        "model": {name: one for name, one in model.items() if not isinstance(one, DTensor)},
        "state": {},
        "param_groups": optimizer.get("param_groups", []),
    }
    for name, state in optimizer.get("state", {}).items():
        for key, value in state.items():
            if isinstance(value, DTensor):
                split[f"optimizer.{name}.{key}"] = value
            else:
                alike["state"].setdefault(name, {})[key] = value
    return split, alike


def _unlike(trainer: Any) -> ConfigError:
    return ConfigError(
        f"training.optim: {trainer.run.config.optim} keeps a state in each process that is neither "
        "split nor alike, so it cannot be saved.",
        "Set optim: adamw_torch, or parallelism: ddp.",
    )


def _group(trainer: Any) -> Any:
    """Return the processes that hold the model once, over the CPU and with much patience."""
    several = own_rank().on_several_machines
    return collectives.of_machine() if several and is_hybrid(trainer) else collectives.of_all()


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise what went wrong in a process as it is; torch wraps it in what is no Exception."""
    try:
        yield
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        raise cause if isinstance(cause, Exception) else TrainingFailed(str(cause)) from error


class _Writer(FileSystemWriter):
    """Writes shards; they are synced with everything else, when the manifest is written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), sync_files=False)

    def storage_meta(self) -> StorageMeta:
        """Return nothing of where it was written, which is another place each time."""
        return StorageMeta(save_id=self.save_id)


class _Reader(FileSystemReader):
    """Reads shards without running what their maker may have put there.

    torch unpickles the file that says where everything is; the machine that wrote it may not be
    trusted. Everything else it reads as plain tensors.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return where everything is."""
        with (Path(self.path) / ".metadata").open("rb") as stream:
            found = _Unpickler(stream).load()
        if not isinstance(found, Metadata):
            raise pickle.UnpicklingError(".metadata describes no shards")
        entries = found.state_dict_metadata.values()
        # Values that are no tensors would be unpickled without restraint, and we write none.
        if not all(isinstance(entry, TensorStorageMetadata) for entry in entries):
            raise pickle.UnpicklingError(".metadata describes more than tensors")
        names = {str(info.relative_path) for info in found.storage_data.values()}
        if any(Path(name).name != name for name in names):
            raise pickle.UnpicklingError(".metadata names files elsewhere")
        if found.storage_meta is not None:
            found.storage_meta.load_id = self.load_id
        return found


class _Unpickler(pickle.Unpickler):
    """Makes what describes tensors, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class or function that the file may name."""
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in DESCRIPTIONS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f".metadata asks for {module}.{name}")
