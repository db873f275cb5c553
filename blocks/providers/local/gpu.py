"""A GPU of a computer, as its driver and its locks describe it."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.contract.gpu_locks import Holder

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A process that computes on a GPU."""

    pid: int
    name: str = ""
    user: str = ""
    """Empty where it cannot be seen from here, as in a container."""
    used_gb: float | None = None
    """GiB of the GPU's memory; None where the driver does not say."""

    def __str__(self) -> str:
        used = "" if self.used_gb is None else f", {self.used_gb:.1f} GiB"
        return f"{self.name or 'a process'} of {self.user or 'somebody'} ({self.pid}{used})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU, or a part of a divided one (MIG), as it is now."""

    index: int
    """The driver's number for it, in the order of the PCI bus; that of the whole for a part."""
    uuid: str
    """As CUDA_VISIBLE_DEVICES takes it; empty for one that is too broken to say."""
    name: str
    free_gb: float
    """GiB that no process uses."""
    total_gb: float = 0.0
    utilisation: float | None = None
    """Percent of the time in which it computed."""
    temperature: float | None = None
    """Degrees Celsius."""
    ecc_errors: int | None = None
    """Uncorrected errors of its memory since the driver was loaded; None without ECC."""
    xid: int | None = None
    """The last error that the driver reported while we listened; see
    https://docs.nvidia.com/deploy/xid-errors/"""
    parent: str = ""
    """The UUID of the GPU that it is a part of."""
    island: str = ""
    """GPUs of one island reach each other by NVLink, or else through one NUMA node."""
    processes: tuple[GpuProcess, ...] = ()
    sick: str = ""
    """Why nobody is to have it; empty when it is well."""
    holders: tuple[Holder, ...] = ()
    """Who has locked it."""

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name}) has {self.free_gb:.1f} GiB free"

    @property
    def foreign(self) -> tuple[GpuProcess, ...]:
        """The processes that compute on it and belong to nobody who has locked it."""
        users = {one.user for one in self.holders}
        # Among those who hold it, a process is told by its user alone: in a container its id is not
        # the one that the driver reports.
        return tuple(
            one
            for one in self.processes
            if not self.holders or (one.user and "" not in users and one.user not in users)
        )

    @property
    def is_shared(self) -> bool:
        """Whether those who have it leave a part of it to others."""
        return any(one.share_gb is not None for one in self.holders)

    @property
    def shared_out_gb(self) -> float:
        """GiB that those have who share it."""
        return sum(one.share_gb or 0.0 for one in self.holders)

    @property
    def why_not(self) -> str:
        """Why a job cannot have it for itself now; empty when it can."""
        if self.sick:
            return f"out of use: {self.sick}"
        if self.holders:
            return f"taken by {'; '.join(map(str, self.holders))}"
        if self.foreign:
            return f"in use by {'; '.join(map(str, self.foreign))}, without having taken it"
        return ""
