"""The nouns that providers and flows pass on: plain data, so that Prefect can store them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self


class InstanceStatus(StrEnum):
    """What a provider says of an instance, in one vocabulary for all providers."""

    PROVISIONING = "provisioning"
    RUNNING = "running"
    STOPPING = "stopping"
    GONE = "gone"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> InstanceStatus:
        """Turn a word that we do not know into `UNKNOWN`, which counts as billing."""
        return cls.UNKNOWN

    @property
    def is_billing(self) -> bool:
        """Whether it may cost money: everything that is not certainly gone does."""
        return self is not InstanceStatus.GONE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Noun:
    """Plain data that becomes a JSON object and comes back equal."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        values = dataclasses.asdict(self)
        return {name: _as_json(value) for name, value in values.items()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Rebuild what `to_dict` gave; entries of a newer version are passed over.

        Raises:
            TypeError: a field without a default is missing.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        facts = {name: value for name, value in record.items() if name in known}
        if "gpu_ids" in facts:
            facts["gpu_ids"] = tuple(facts["gpu_ids"])
        if "status" in facts:
            facts["status"] = InstanceStatus(facts["status"])
        return cls(**facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer(_Noun):
    """A machine for hire."""

    provider: str
    """The provider's name in the registry."""
    instance_type: str
    """The provider's word for this kind of machine."""
    region: str
    price_per_hour: float
    """USD per hour, for the whole machine."""
    spot: bool = False
    """Whether the provider may take it back."""
    gpu_type: str | None = None
    gpu_count: int = 0
    gpu_ids: tuple[str, ...] = ()
    """Which GPUs of a machine that is shared: UUIDs, as CUDA_VISIBLE_DEVICES takes them."""
    vram_gb: float = 0.0
    """GiB of memory per GPU; of a machine that is shared, what is free now."""
    disk_gb: float | None = None
    """GiB of free disk. None: as much as is asked for."""
    ram_gb: float | None = None
    """GiB of main memory. None: the provider does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance(_Noun):
    """A machine hired."""

    provider: str
    """The provider's name in the registry."""
    id: str
    """The provider's own name for it."""
    name: str
    """Our name for it, which tells the flow run and the attempt that own it."""
    status: InstanceStatus
    address: str = ""
    """Host name or IP address; empty while there is none."""
    price_per_hour: float = 0.0
    """USD per hour as billed, for the whole machine."""
    workspace: str = ""
    """Absolute path of the job directory on the machine."""
    gpu_type: str | None = None
    gpu_ids: tuple[str, ...] = ()
    """The GPUs that the job may use, for CUDA_VISIBLE_DEVICES. Empty: see `gpu_count`."""
    gpu_count: int = 0
    """How many GPUs the job has. 0: it must not use any."""


def _as_json(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    return list(value) if isinstance(value, tuple) else value
