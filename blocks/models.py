"""The data that providers and flows exchange: plain values, so that Prefect can store them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from blocks.marks import Mark, ours
from trainer.contract.errors import OrchestratorError, from_dict


class InstanceStatus(StrEnum):
    """What a provider says about an instance, in one vocabulary for all providers."""

    QUEUED = "queued"
    """Ordered, and waiting for its turn, which takes any time; nothing is billed yet."""
    PROVISIONING = "provisioning"
    RUNNING = "running"
    STOPPING = "stopping"
    LOST = "lost"
    """Taken back by the provider, or broken for good: useless, and perhaps still billed."""
    ABSENT = "absent"
    """The provider does not find it. One look proves nothing: see `blocks.providers.absence`."""
    GONE = "gone"
    """The provider says that it ended, or its absence is proven; nothing of it is billed."""
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
        """Whether the provider says that nothing runs there now."""
        return self in {InstanceStatus.LOST, InstanceStatus.GONE}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Noun:
    """Plain data that becomes a JSON object and comes back equal."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        names = [field.name for field in dataclasses.fields(self)]
        return {name: _as_json(getattr(self, name)) for name in names}

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
        if isinstance(facts.get("mark"), str):
            facts["mark"] = ours(facts["mark"])
        if isinstance(facts.get("failure"), Mapping):
            facts["failure"] = from_dict(facts["failure"])
        return cls(**facts)


HOURS_PER_MONTH = 730.0
"""Of prices by the month."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Billed(_Noun):
    """What a machine costs. Only what its provider bills for it beside its price is set below it.

    A provider whose price per hour includes its disk, its address and its traffic leaves these at 0;
    `as_instance` and `as_offer` hand them on. One that bills them fills in what its price list says,
    in `offers`, and in `Instance` wherever its answers tell, such as the size of a disk.
    """

    price_per_hour: float | None
    """USD per hour, for the whole machine; None: the provider does not say."""
    storage_gb: float = 0.0
    """GB of disk that are billed beside that price, from the order until the disk is removed."""
    storage_price: float = 0.0
    """USD for a GB of it and a month of 730 hours."""
    beside_per_hour: float = 0.0
    """USD per hour for what else is billed by time, such as a public address."""
    traffic_price: float = 0.0
    """USD for a GB that leaves the provider for home."""

    @property
    def extras(self) -> dict[str, Any]:
        """What is billed beside the price, by field."""
        return {name: getattr(self, name) for name in EXTRAS}

    @property
    def extra_per_hour(self) -> float:
        """USD per hour for disk, address and the like, as long as the bundle exists."""
        return self.storage_gb * self.storage_price / HOURS_PER_MONTH + self.beside_per_hour

    @property
    def whole_per_hour(self) -> float | None:
        """USD per hour for everything that is billed by time; None: the provider does not say."""
        if self.price_per_hour is None:
            return None
        return self.price_per_hour + self.extra_per_hour


EXTRAS = ("storage_gb", "storage_price", "beside_per_hour", "traffic_price")
"""The fields of what is billed beside a machine's price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer(_Billed):
    """A machine for hire."""

    provider: str
    """The provider's name in the registry."""
    instance_type: str
    """The provider's word for this kind of machine."""
    region: str
    zone: str = ""
    """A part of the region that has capacity of its own, where the provider has such."""
    id: str = ""
    """The provider's own name for this offer, where it has one."""
    host: str = ""
    """What is avoided for a while when a machine of this offer fails: the computer, or the kind
    and place if the provider does not distinguish computers."""
    spot: bool = False
    """Whether the provider may take it back."""
    interruptions_per_hour: float | None = None
    """How often an hour it takes a spot machine of this kind and place back, on average, as the
    provider publishes it; None: it does not say. 10 % a month are 0.1 / 730, 10 % an hour are 0.1."""
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
    lives_seconds: float | None = None
    """How long the machine may live at most, set when it is ordered: a provider that can end it by
    itself does so then, whatever becomes of us. None: nobody has said."""

    @property
    def rank_price(self) -> float:
        """All that an hour costs, to compare offers by: an unknown price counts as the dearest."""
        whole = self.whole_per_hour
        return math.inf if whole is None else whole

    def as_instance(self, id: str, mark: Mark, **facts: Any) -> Instance:
        """Return the machine that a provider has just hired out by this offer.

        Args:
            id: the provider's own name for it.
            mark: what it was hired under.
            facts: further fields of `Instance`; its status is provisioning unless it is given.
        """
        known = {
            "provider": self.provider,
            "status": InstanceStatus.PROVISIONING,
            "instance_type": self.instance_type,
            "region": self.region,
            "zone": self.zone,
            "host": self.host,
            "spot": self.spot,
            "price_per_hour": self.price_per_hour,
            **self.extras,
            "gpu_type": self.gpu_type,
            "gpu_ids": self.gpu_ids,
            "gpu_count": self.gpu_count,
        }
        # What the provider said when it hired the machine out outweighs what its offer said
        # before.
        return Instance(id=id, mark=mark, **{**known, **facts})


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance(_Billed):
    """A machine hired: everything billable that bears one mark."""

    price_per_hour: float | None = None
    """USD per hour as billed, for the whole machine; None: the provider does not say."""

    provider: str
    """The provider's name in the registry."""
    id: str
    """The provider's own name for it."""
    mark: Mark | None
    """Which flow run and attempt own it; None: it is not a machine of this installation."""
    status: InstanceStatus
    detail: str = ""
    """The provider's own words about the status."""
    time_is_up: bool = False
    """Whether it ended because the time was over for which it was ordered."""
    failure: OrchestratorError | None = None
    """Why an order came to nothing that the provider had accepted."""
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
    zone: str = ""
    host: str = ""
    """As in `Offer`."""
    spot: bool = False
    """Whether the provider may take it back."""
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
            zone=self.zone,
            price_per_hour=self.price_per_hour,
            **self.extras,
            host=self.host,
            spot=self.spot,
            gpu_type=self.gpu_type,
            gpu_count=self.gpu_count,
        )


def _as_json(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Mark):
        return str(value)
    if isinstance(value, OrchestratorError):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value
