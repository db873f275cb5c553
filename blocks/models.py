"""The data that providers and flows exchange: plain values, so that Prefect can store them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self


class InstanceStatus(StrEnum):
    """What a provider says about an instance, in one vocabulary for all providers."""

    PROVISIONING = "provisioning"
    RUNNING = "running"
    STOPPING = "stopping"
    LOST = "lost"
    """Taken back by the provider, or broken for good: useless, and perhaps still billed."""
    GONE = "gone"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> InstanceStatus:
        """Turn an unknown word into `UNKNOWN`, which counts as billing."""
        return cls.UNKNOWN

    @property
    def is_billing(self) -> bool:
        """Whether it may cost money: everything that is not certainly gone does."""
        return self is not InstanceStatus.GONE

    @property
    def is_lost(self) -> bool:
        """Whether the provider says for certain that nothing runs there now."""
        return self in {InstanceStatus.LOST, InstanceStatus.GONE}


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
        # JSON knows neither tuples nor enums, and what comes back must equal what went in.
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
    id: str = ""
    """The provider's own name for this offer, where it has one."""
    host: str = ""
    """What is avoided for a while when a machine of this offer fails: the computer, or the kind
    and place if the provider does not distinguish computers."""
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

    def as_instance(self, id: str, name: str, **facts: Any) -> Instance:
        """Return the machine that a provider has just hired out by this offer.

        Args:
            id: the provider's own name for it.
            name: our name for it.
            facts: further fields of `Instance`; its status is provisioning unless it is given.
        """
        known = {
            "provider": self.provider,
            "status": InstanceStatus.PROVISIONING,
            "instance_type": self.instance_type,
            "region": self.region,
            "host": self.host,
            "spot": self.spot,
            "price_per_hour": self.price_per_hour,
            "gpu_type": self.gpu_type,
            "gpu_ids": self.gpu_ids,
            "gpu_count": self.gpu_count,
        }
        # What the provider said when it hired the machine out outweighs what its offer said
        # before.
        return Instance(id=id, name=name, **{**known, **facts})


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance(_Noun):
    """A machine hired."""

    provider: str
    """The provider's name in the registry."""
    id: str
    """The provider's own name for it."""
    name: str
    """Our name for it, which says which flow run and attempt own it."""
    status: InstanceStatus
    detail: str = ""
    """The provider's own words about the status."""
    address: str = ""
    """Host name or IP address; empty while there is none."""
    private_address: str = ""
    """By which other machines of its provider reach it; empty: by `address`."""
    port: int = 22
    """Where its sshd listens."""
    user: str = "root"
    """Whom to log in as."""
    instance_type: str = ""
    """The provider's word for this kind of machine."""
    region: str = ""
    host: str = ""
    """As in `Offer`."""
    spot: bool = False
    """Whether the provider may take it back."""
    price_per_hour: float = 0.0
    """USD per hour as billed, for the whole machine."""
    workspace: str = ""
    """Absolute path of the job directory on the machine; empty before it is ready."""
    gpu_type: str | None = None
    gpu_ids: tuple[str, ...] = ()
    """The GPUs that the job may use, for CUDA_VISIBLE_DEVICES. Empty: see `gpu_count`."""
    gpu_count: int = 0
    """How many GPUs the job has. 0: it must not use any."""

    def as_offer(self) -> Offer:
        """Return the offer that this machine would be if it were for hire."""
        return Offer(
            provider=self.provider,
            instance_type=self.instance_type,
            region=self.region,
            price_per_hour=self.price_per_hour,
            host=self.host,
            spot=self.spot,
            gpu_type=self.gpu_type,
            gpu_count=self.gpu_count,
        )


def _as_json(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    return list(value) if isinstance(value, tuple) else value
