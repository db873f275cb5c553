"""The NVIDIA GPUs of this computer, asked of the driver through NVML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainer.contract.errors import CapacityError

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU as it is now."""

    index: int
    """The driver's number for it, in the order of the PCI bus."""
    uuid: str
    name: str
    free_gb: float
    """GiB that no process uses."""

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name}) has {self.free_gb:.1f} GiB free"


def gpus() -> list[Gpu]:
    """Return the GPUs that work; none without a driver or its library. Blocks up to a second."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        # Fails without a driver or without its library; so it is asked here and not at import.
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return list(_working())
    finally:
        pynvml.nvmlShutdown()


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


def grouped(fitting: Sequence[Gpu], count: int) -> list[tuple[Gpu, ...]]:
    """Return the GPUs in groups of `count` of one kind, in the order in which they come.

    Raises:
        CapacityError: no kind has that many.
    """
    kinds: dict[str, list[Gpu]] = {}
    for gpu in fitting:
        kinds.setdefault(gpu.name, []).append(gpu)
    groups = [
        tuple(kind[start : start + count])
        for kind in kinds.values()
        # Only full groups. What is left over of a kind cannot train this job.
        for start in range(0, len(kind) - count + 1, count)
    ]
    if not groups:
        raise CapacityError(
            f"resources.gpu_count asks for {count} GPUs of one kind: {'; '.join(map(str, fitting))}.",
            "Lower resources.gpu_count, or choose another provider.",
        )
    return sorted(groups, key=lambda group: fitting.index(group[0]))


def _names(entry: str, gpu: Gpu) -> bool:
    return entry == str(gpu.index) or (entry.startswith("GPU-") and gpu.uuid.startswith(entry))


def _working() -> Iterator[Gpu]:
    import pynvml

    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            # Each by itself, because one GPU that fails must not hide the others.
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            yield Gpu(
                index=index,
                uuid=pynvml.nvmlDeviceGetUUID(handle),
                name=pynvml.nvmlDeviceGetName(handle),
                free_gb=pynvml.nvmlDeviceGetMemoryInfo(handle).free / GIB,
            )
        except pynvml.NVMLError:  # fallen off the bus, for instance
            continue
