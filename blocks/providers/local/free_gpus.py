"""Which GPUs a job may have now: those that nobody has, that are well, and that suffice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from blocks.providers.local.gpu import Gpu
from blocks.providers.local.gpus import choose, grouped
from trainer.config import Resources
from trainer.contract.errors import CapacityError, GpusBusy
from trainer.contract.gpu_locks import Allocation

BESIDE = (
    "They are waited for. End those processes, or set resources.min_vram_gb: a job trains beside them, "
    "where that much is free."
)

Groups = list[tuple[Gpu, ...]]


def free_groups(
    found: Sequence[Gpu], resources: Resources, allotted: Allocation | None, taken: Sequence[str]
) -> Groups:
    """Return the groups of GPUs that a job may have, the one to take first at the head.

    Args:
        found: what there is, in any condition.
        resources: what the job asks for.
        allotted: what a worker has given to it; None: any.
        taken: see `choose`.

    Raises:
        GpusBusy: some would do, and jobs have them.
        CapacityError: none will do.
    """
    mine = [gpu for gpu in found if allotted is None or gpu.uuid in allotted.uuids]
    well = [gpu for gpu in mine if not gpu.sick]
    if mine and not well and len(mine) < len(found):
        return free_groups(found, resources, None, taken)  # what was given broke: any other will do
    if mine and not well:
        raise CapacityError(
            f"Every GPU here is out of use: {_why(mine)}.",
            "Reset it, or start the computer anew; 'trainctl gpus heal UUID' puts it to use again.",
        )
    count = resources.gpu_count or 1
    if count > 1:  # CUDA gives a process one part of a divided GPU, whatever it is shown
        well = [gpu for gpu in well if not gpu.parent]
    beside = resources.min_vram_gb is not None
    free = [gpu for gpu in well if _is_free(gpu, allotted, beside_strangers=beside)]
    strangers = [gpu.uuid for gpu in free if gpu.foreign]
    try:
        fitting = choose(
            free or well, min_vram_gb=_needed(resources, allotted), taken=[*taken, *strangers]
        )
        groups = grouped(fitting, count, allotted.uuids if allotted else ())
    except CapacityError as error:
        _refuse(well, free, resources, error)
    if not free:
        _refuse(well, free, resources, None)
    return groups


def _is_free(gpu: Gpu, allotted: Allocation | None, *, beside_strangers: bool) -> bool:
    """Whether nobody has a GPU, or those who share it leave as much as was allotted."""
    if gpu.foreign and not beside_strangers:
        return False
    if allotted is None or allotted.share_gb is None:
        return not gpu.holders
    shared = not gpu.holders or gpu.is_shared
    return shared and gpu.shared_out_gb + allotted.share_gb <= allotted.vram_gb


def _needed(resources: Resources, allotted: Allocation | None) -> float | None:
    # Who shares it may not have used yet what it was given, and what is free says little.
    return None if allotted and allotted.share_gb is not None else resources.min_vram_gb


def _refuse(
    well: Sequence[Gpu], free: Sequence[Gpu], resources: Resources, error: CapacityError | None
) -> NoReturn:
    """Raise what keeps a job from its GPUs: others, for a while, or that there are none for it."""
    empty = [replace(gpu, free_gb=gpu.total_gb or gpu.free_gb) for gpu in well]
    try:
        fitting = choose(empty, min_vram_gb=resources.min_vram_gb, taken=())
        grouped(fitting, resources.gpu_count or 1)
    except CapacityError as never:
        raise error or never from None
    busy = [gpu for gpu in well if gpu not in free]
    if error and not busy:
        raise error
    # A process that has not taken its GPU is waited for too: it may be a check that takes seconds.
    strangers = None if any(gpu.holders for gpu in busy) else BESIDE
    raise GpusBusy(f"The GPUs that would do are in use: {_why(busy)}.", strangers)


def _why(gpus: Sequence[Gpu]) -> str:
    return "; ".join(f"GPU {gpu.index} ({gpu.name}) is {gpu.why_not}" for gpu in gpus)
