"""What Azure has for hire: sizes of machines, the quota that is left for them, and their prices."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from blocks.models import Offer
from blocks.providers.azure.answers import text
from blocks.providers.gpu_names import matches
from trainer.config import Limits, Resources

DISK_PRICE = 0.075  # USD for a GiB of Standard SSD and a month; tiers round it up a little
ADDRESS_PRICE = 0.005  # USD per hour for a standard public IPv4 address
TRAFFIC_PRICE = 0.087  # USD for a GB that leaves Azure, after the first 100 of a month
IMAGE_GIB = 48  # of the disk, that the image takes: what a job asks for must be free beside it
SPOT_QUOTA = "lowPriorityCores"
WHOLE_QUOTA = "cores"


class SizeGpu(NamedTuple):
    """A GPU of Azure, by the names of the sizes that have it."""

    sizes: str
    """A regular expression for whole names."""
    name: str
    vram_gb: float


# Sizes name their GPU in no field, so only these are offered: with NVIDIA's data centre driver, as
# the image has it. NVads A10 v5 needs the GRID driver, and has parts of a GPU.
GPUS = (
    SizeGpu(r"Standard_NC\d+as_T4_v3", "Tesla T4", 16),
    SizeGpu(r"Standard_NC\d+r?s_v3", "Tesla V100 16 GB", 16),
    SizeGpu(r"Standard_ND40rs_v2", "Tesla V100 32 GB", 32),
    SizeGpu(r"Standard_NC\d+ads_A100_v4", "A100 80 GB PCIe", 80),
    SizeGpu(r"Standard_ND96asr_(A100_)?v4", "A100 40 GB SXM4", 40),
    SizeGpu(r"Standard_ND96amsr_A100_v4", "A100 80 GB SXM4", 80),
    SizeGpu(r"Standard_NC\d+adi?s_H100_v5", "H100 94 GB NVL", 94),
    SizeGpu(r"Standard_ND96isr_H100_v5", "H100 80 GB SXM5", 80),
    SizeGpu(r"Standard_ND96isr_H200_v5", "H200 141 GB SXM5", 141),
)
CPU_SIZES = r"Standard_D\d+a?s_v[56]"
"""For jobs without a GPU: two general kinds, of hundreds."""


def gpu_of(size: str) -> SizeGpu | None:
    """Return the GPU of a size; None where it has none that is known."""
    return next((gpu for gpu in GPUS if re.fullmatch(gpu.sizes, size)), None)


@dataclass(frozen=True, kw_only=True)
class Size:
    """A size of machine, as it is to be had in one location."""

    name: str
    location: str
    family: str
    """The name of the quota that it counts against."""
    vcpus: int
    gpus: int
    ram_gb: float
    takes_spot: bool
    zones: Sequence[str] = field(default_factory=tuple)
    """Those that are not closed to the subscription."""

    @property
    def is_known(self) -> bool:
        """Whether it is one of those that the image is for."""
        return bool(gpu_of(self.name) if self.gpus else re.fullmatch(CPU_SIZES, self.name))

    def fits(self, resources: Resources) -> bool:
        """Whether it is what is asked for, at whatever price and in whatever quota."""
        gpus = 1 if resources.gpu_count is None else resources.gpu_count
        gpu = gpu_of(self.name)
        return (
            self.is_known
            and self.gpus == gpus
            and (not gpus or matches(resources.gpu_types, gpu.name if gpu else None))
            and (not gpus or (gpu.vram_gb if gpu else 0) >= (resources.min_vram_gb or 0))
            and self.ram_gb >= (resources.min_ram_gb or 0)
            # A trainer and what watches it, beside the system.
            and self.vcpus >= 4
        )


def sizes_in(rows: Collection[Mapping[str, Any]], location: str) -> Iterator[Size]:
    """Yield the sizes for hire in a location, of the rows of the SKU list that can be read."""
    for row in rows:
        try:
            size = _size(row, location)
        except (AttributeError, LookupError, TypeError, ValueError):  # it hides no other
            continue
        if size is not None:
            yield size


def _size(row: Mapping[str, Any], location: str) -> Size | None:
    if row.get("resourceType") != "virtualMachines":
        return None
    facts = {str(one["name"]): str(one["value"]) for one in row.get("capabilities") or ()}
    zones = {
        str(zone)
        for one in row.get("locationInfo") or ()
        if str(one.get("location")).lower() == location
        for zone in one.get("zones") or ()
    }
    for limit in row.get("restrictions") or ():
        info = limit.get("restrictionInfo") or {}
        # Of type Location: not for this subscription. Of type Zone: other zones work, and no zone.
        if limit.get("type") == "Location":
            return None
        zones -= {str(zone) for zone in info.get("zones") or ()}
    if facts.get("CpuArchitectureType", "x64") != "x64":
        return None
    return Size(
        name=text(row, "name"),
        location=location,
        family=text(row, "family"),
        vcpus=int(facts["vCPUs"]),
        gpus=int(facts.get("GPUs") or 0),
        ram_gb=float(facts["MemoryGB"]),
        takes_spot=facts.get("LowPriorityCapable") == "True",
        zones=tuple(sorted(zones)),
    )


class CoreQuota(NamedTuple):
    """What a subscription may use in one location, in vCPUs, and what it uses."""

    limit: float
    used: float


def quotas_of(rows: Collection[Mapping[str, Any]]) -> dict[str, CoreQuota]:
    """Return the quotas of a location by their names in lower case.

    Raises:
        LookupError, TypeError: a row is not as it is described.
    """
    return {
        text(row, "name", "value").lower(): CoreQuota(row["limit"] + 0, row["currentValue"] + 0)
        for row in rows
    }


def lacking(
    size: Size, quotas: Mapping[str, CoreQuota], *, spot: bool
) -> tuple[str, CoreQuota] | None:
    """Return the quota that leaves no room for one more machine of a size; None where there is."""
    # Spot machines have a quota of their own in every region, whatever their family.
    for name in (SPOT_QUOTA,) if spot else (size.family, WHOLE_QUOTA):
        quota = quotas.get(name.lower())
        if quota and quota.limit - quota.used < size.vcpus:
            return name, quota
    return None


def disk_gib(resources: Resources, usual: int) -> int:
    """Return how large a disk to order, in GiB, for what a job asks to be free on it."""
    return max(usual, math.ceil(resources.disk_gb or 0) + IMAGE_GIB if resources.disk_gb else 0)


def billed_beside(disk: float, *, public: bool) -> dict[str, Any]:
    """Return what is billed beside a machine itself, as the fields of an offer or an instance.

    Args:
        disk: in GiB.
        public: whether it has an address of its own.
    """
    return {
        "storage_gb": disk,
        "storage_price": DISK_PRICE,
        "beside_per_hour": ADDRESS_PRICE if public else 0.0,
        "traffic_price": TRAFFIC_PRICE,
    }


def offer_of(
    size: Size,
    *,
    spot: bool,
    zone: str,
    price: float | None,
    resources: Resources,
    disk: int,
    public: bool,
) -> Offer:
    """Return a size as an offer.

    Args:
        size: what is hired.
        spot: whether it may be taken back.
        zone: empty for any, which has more chances.
        price: USD per hour of the machine itself.
        resources: what is asked for.
        disk: GiB to order.
        public: whether it gets an address of its own.
    """
    gpu = gpu_of(size.name) if size.gpus else None
    return Offer(
        provider="azure",
        # What is sold out for spot machines may be there for others.
        id=f"{size.name} spot" if spot else size.name,
        instance_type=size.name,
        region=size.location,
        zone=zone,
        host=f"{size.name} in {size.location}{f' zone {zone}' if zone else ''}",
        price_per_hour=price or None,
        **billed_beside(disk, public=public),
        spot=spot,
        gpu_type=gpu.name if gpu else None,
        gpu_count=size.gpus,
        vram_gb=gpu.vram_gb if gpu else 0.0,
        disk_gb=float(disk - IMAGE_GIB),
        ram_gb=size.ram_gb,
    )


def affordable(offer: Offer, limits: Limits) -> bool:
    """Whether an offer is within the price cap; one of unknown price is not."""
    return offer.rank_price <= (limits.max_price_per_hour or math.inf)
