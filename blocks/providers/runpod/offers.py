"""What RunPod's catalogue has for a job."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from blocks.models import Offer
from blocks.providers.gpu_names import matches
from blocks.providers.runpod.answers import CpuType, GpuCounts, GpuType, Place
from trainer.config import Limits, Resources
from trainer.contract.errors import CapacityError

VCPUS = 4
"""How many vCPUs a pod without GPU has where no more are asked for."""
LEVELS = ("HIGH", "MEDIUM", "LOW")
CPU_CLOUD = "SECURE"
"""Where pods without GPU are to be had; there are none on computers of third parties."""
Type = TypeVar("Type", CpuType, GpuType)


def gpu_offers(
    rows: Iterable[Mapping[str, Any]],
    resources: Resources,
    limits: Limits,
    disk_gb: float,
    cloud: str,
) -> list[Offer]:
    """Return pods with GPUs, cheapest first.

    Raises:
        CapacityError: nothing fits.
    """
    count = resources.gpu_count or 1
    fitting = [
        (gpu, price * count)
        for gpu in _parsed(GpuType, rows)
        if (price := _price(gpu, cloud)) and _suits(gpu, resources) and count <= _most(gpu, cloud)
    ]
    offers = [
        (level, _gpu_offer(gpu, price, region, resources, disk_gb))
        for gpu, price in fitting
        for region, level in _regions(gpu, resources.regions, cloud)
    ]
    names = [f"{gpu.name or gpu.id} at {price:g} USD per hour" for gpu, price in fitting]
    return _cheapest(offers, limits, names)


def cpu_offers(
    rows: Iterable[Mapping[str, Any]], resources: Resources, limits: Limits, disk_gb: float
) -> list[Offer]:
    """Return pods without GPU, cheapest first.

    Raises:
        CapacityError: nothing fits.
    """
    fitting = [
        (cpu, vcpus)
        for cpu in _parsed(CpuType, rows)
        # A row without a price is not for hire.
        if cpu.id and cpu.price and cpu.price.securePerVcpu and (vcpus := _vcpus(cpu, resources))
    ]
    offers = [
        (level, _cpu_offer(cpu, vcpus, region, resources, disk_gb))
        for cpu, vcpus in fitting
        for region, level in _regions(cpu, resources.regions, CPU_CLOUD)
    ]
    return _cheapest(offers, limits, [f"{cpu.id} with {vcpus} vCPUs" for cpu, vcpus in fitting])


def _cheapest(
    offers: Sequence[tuple[str, Offer]], limits: Limits, names: Sequence[str]
) -> list[Offer]:
    cap = limits.max_price_per_hour
    within = [(level, offer) for level, offer in offers if cap is None or offer.rank_price <= cap]
    if within:
        # Of equal prices, the place that has most of them: a create there is least likely to fail.
        ranked = sorted(within, key=lambda it: (it[1].rank_price, LEVELS.index(it[0])))
        return [offer for _, offer in ranked]
    if offers:
        least = min(offer.rank_price for _, offer in offers)
        raise CapacityError(
            f"RunPod's cheapest machine that fits costs {least:g} USD per hour, more than "
            f"limits.max_price_per_hour = {cap:g}.",
            "Raise limits.max_price_per_hour, or allow more in resources.",
        )
    raise CapacityError(
        f"RunPod has no free machine that fits: {', '.join(names)}."
        if names
        else "RunPod has no kind of machine that fits resources."
    )


def _parsed(kind: type[Type], rows: Iterable[Mapping[str, Any]]) -> list[Type]:
    """Return the rows that are as described; the others cannot be hired by."""
    found = []
    for row in rows:
        try:
            found.append(kind.model_validate(row))
        except ValidationError:
            continue
    return found


def _price(gpu: GpuType, cloud: str) -> float | None:
    """Return USD per hour for one GPU; None where it is not for hire."""
    if gpu.price is None:
        return None
    if cloud == "SECURE":
        return gpu.price.secure if gpu.secure is not False else None
    return gpu.price.community if gpu.community is not False else None


def _most(gpu: GpuType, cloud: str) -> float:
    """Return how many a pod may have of a GPU."""
    counts = gpu.maxCount or GpuCounts()
    most = counts.secure if cloud == "SECURE" else counts.community
    return math.inf if most is None else most


def _suits(gpu: GpuType, resources: Resources) -> bool:
    return (
        bool(gpu.id)
        # A placeholder of the catalogue, which cannot be ordered.
        and gpu.id != "unknown"
        and gpu.manufacturer != "AMD"  # the image is made for CUDA
        and (gpu.memory or 0) >= (resources.min_vram_gb or 0)
        and matches(resources.gpu_types, gpu.id, gpu.name)
    )


def _vcpus(cpu: CpuType, resources: Resources) -> int | None:
    """Return the least power of two that has enough memory; None where none has."""
    # A trainer on fewer vCPUs than `VCPUS` would spend its time waiting for data.
    least = max((cpu.vcpu and cpu.vcpu.min) or 2, VCPUS)
    most = (cpu.vcpu and cpu.vcpu.max) or least
    count = 2
    while count <= most:
        if count >= least and count * (cpu.ramGbPerVcpu or 0) >= (resources.min_ram_gb or 0):
            return count
        count *= 2
    return None


def _regions(
    kind: GpuType | CpuType, wanted: Sequence[str], anywhere: str
) -> list[tuple[str, str]]:
    """Return where there are some, with the level: the data centres wanted, or `anywhere`."""
    if not wanted:
        return [(anywhere, kind.availability)] if kind.availability in LEVELS else []
    places: list[Place] = kind.dataCenters or []
    names = {name.casefold() for name in wanted}
    return [
        (place.id, place.availability)
        for place in places
        if place.id and place.id.casefold() in names and place.availability in LEVELS
    ]


def _gpu_offer(
    gpu: GpuType, price: float, region: str, resources: Resources, disk_gb: float
) -> Offer:
    return Offer(
        provider="runpod",
        instance_type=gpu.id or "",
        region=region,
        price_per_hour=price,
        host=f"{gpu.id}@{region}",
        gpu_type=gpu.id,
        gpu_count=resources.gpu_count or 1,
        vram_gb=gpu.memory or 0.0,
        disk_gb=resources.disk_gb or disk_gb,
        ram_gb=resources.min_ram_gb,
    )


def _cpu_offer(
    cpu: CpuType, vcpus: int, region: str, resources: Resources, disk_gb: float
) -> Offer:
    price = (cpu.price and cpu.price.securePerVcpu) or 0.0
    return Offer(
        provider="runpod",
        instance_type=f"{cpu.id}-{vcpus}",
        region=region,
        price_per_hour=vcpus * price,
        host=f"{cpu.id}@{region}",
        disk_gb=max(resources.disk_gb or disk_gb, 20.0),  # hosts refuse less
        ram_gb=vcpus * (cpu.ramGbPerVcpu or 0.0),
    )
