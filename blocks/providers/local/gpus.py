"""The GPUs of this computer as they are now, and which of them a job may have."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from blocks.providers.local import nvml, pretended
from blocks.providers.local.gpu import Gpu
from trainer.contract import gpu_locks
from trainer.contract.errors import CapacityError, ConfigError
from trainer.contract.gpu_files import PRETENDED_VARIABLE, sickness


def inventory() -> list[Gpu]:
    """Return all GPUs of this computer, also those that are out of use or in use. It blocks.

    A GPU that is divided (MIG) is not among them, but its parts are. None without a driver.

    Raises:
        ConfigError: the file of pretended GPUs is not one.
    """
    file = os.environ.get(PRETENDED_VARIABLE)
    found = pretended.read(file) if file else nvml.read()
    return [_with_locks(gpu) for gpu in found]


def gpus() -> list[Gpu]:
    """Return the GPUs that work, whoever has them; see `inventory`."""
    return [gpu for gpu in inventory() if not gpu.sick]


def _with_locks(gpu: Gpu) -> Gpu:
    """Return a GPU with who has locked it, and why it is out of use."""
    if not gpu.uuid:
        return gpu
    try:
        return replace(
            gpu,
            holders=tuple(gpu_locks.holders(gpu.uuid)),
            sick=gpu.sick or sickness(gpu.parent or gpu.uuid),
        )
    except ConfigError as error:
        return replace(gpu, sick=error.message)


def visible(found: Sequence[Gpu], setting: str | None) -> list[Gpu]:
    """Return the GPUs that a CUDA_VISIBLE_DEVICES leaves to us; None leaves all.

    As CUDA has it, the list ends at the first entry that names no GPU. A number is taken in the
    order of the PCI bus.
    """
    if setting is None:
        return list(found)
    chosen: list[Gpu] = []
    for entry in setting.split(","):
        match = [gpu for gpu in found if _names(entry.strip(), gpu)]
        # No such GPU, or the beginning of several UUIDs: CUDA ignores the entry and all after it, see
        # https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/environment-variables.html
        if len(match) != 1:
            break
        chosen += match
    return chosen


def choose(found: Sequence[Gpu], *, min_vram_gb: float | None, taken: Sequence[str]) -> list[Gpu]:
    """Return the GPUs with enough free memory, the one to take first at the head.

    Args:
        found: what there is.
        min_vram_gb: GiB that must be free.
        taken: UUIDs of GPUs that jobs have, one entry for each job; such GPUs come last.

    Raises:
        CapacityError: none has enough; the message says what each has.
    """
    if not found:
        raise CapacityError(
            "No NVIDIA GPU is visible here and resources.gpu_count asks for one.",
            "Set resources.gpu_count: 0 to train on the CPU, check that nvidia-smi and "
            "CUDA_VISIBLE_DEVICES show the GPU, or choose another provider.",
        )
    needed = min_vram_gb or 0.0
    fitting = [gpu for gpu in found if gpu.free_gb >= needed]
    if not fitting:
        raise CapacityError(
            f"No GPU with {needed:g} GiB free: {'; '.join(map(str, found))}.",
            "Lower resources.min_vram_gb, end what uses the GPU, or choose another provider.",
        )
    return sorted(fitting, key=lambda gpu: (taken.count(gpu.uuid), -gpu.free_gb))


def grouped(
    fitting: Sequence[Gpu], count: int, wanted: Sequence[str] = ()
) -> list[tuple[Gpu, ...]]:
    """Return the GPUs in groups of `count` of one kind, in the order in which they come.

    Groups within one island come first: their GPUs reach each other fastest.

    Args:
        fitting: the GPUs.
        count: how many train together.
        wanted: UUIDs of GPUs that are to be one group.

    Raises:
        CapacityError: no kind has that many.
    """
    if wanted and len(wanted) == count and len(fitting) == count:
        return [tuple(fitting)]
    kinds: dict[str, list[Gpu]] = {}
    for gpu in fitting:
        kinds.setdefault(gpu.name, []).append(gpu)
    groups = [group for kind in kinds.values() for group in _of_kind(kind, count)]
    if not groups:
        raise CapacityError(
            f"resources.gpu_count asks for {count} GPUs of one kind: {'; '.join(map(str, fitting))}.",
            "Lower resources.gpu_count, or choose another provider.",
        )
    return sorted(groups, key=lambda group: (_is_torn(group), fitting.index(group[0])))


def _of_kind(kind: Sequence[Gpu], count: int) -> list[tuple[Gpu, ...]]:
    """Return full groups: what is left over of a kind cannot train this job."""
    islands: dict[str, list[Gpu]] = {}
    for gpu in kind:
        islands.setdefault(gpu.island, []).append(gpu)
    groups: list[tuple[Gpu, ...]] = []
    left: list[Gpu] = []
    for island in islands.values():
        whole = len(island) - len(island) % count
        groups += [tuple(island[start : start + count]) for start in range(0, whole, count)]
        left += island[whole:]
    groups += [
        tuple(left[start : start + count]) for start in range(0, len(left) - count + 1, count)
    ]
    return groups


def _is_torn(group: Sequence[Gpu]) -> bool:
    return len({gpu.island for gpu in group}) > 1


def _names(entry: str, gpu: Gpu) -> bool:
    return entry == str(gpu.index) or (
        entry.startswith(("GPU-", "MIG-")) and gpu.uuid.startswith(entry)
    )
