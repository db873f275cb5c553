"""Which kinds of machine a job can be offered."""

from __future__ import annotations

import math
from collections.abc import Mapping

from blocks.models import Offer
from blocks.providers.cloud import ALLOW_MORE, elsewhere
from blocks.providers.gpu_names import matches
from blocks.providers.sagemaker.kinds import (
    DEFAULT_DISK_GB,
    KINDS,
    STORAGE_PRICE,
    TRAFFIC_PRICE,
    MlType,
)
from trainer.config import Limits, Resources
from trainer.contract.errors import CapacityError


def offers_of(
    resources: Resources, limits: Limits, region: str, prices: Mapping[str, float | None]
) -> list[Offer]:
    """Return one offer per kind that fits, on demand, spot or both, cheapest first.

    Args:
        resources: what the job needs.
        limits: what it may cost.
        region: where its machine would be.
        prices: USD per hour by kind; None: not known.

    Raises:
        CapacityError: none fits.
    """
    cap = limits.max_price_per_hour
    fitting = [kind for kind in KINDS if _fits(kind, resources)]
    spots = (False, True) if resources.spot is None else (resources.spot,)
    offers = [
        _offer(kind, resources, region, prices[kind.name], spot=spot)
        for kind in fitting
        for spot in spots
    ]
    affordable = [offer for offer in offers if offer.rank_price <= (cap or math.inf)]
    if resources.regions and region not in resources.regions:
        raise elsewhere("SageMaker", resources.regions, [region], "AWS_REGION")
    if not affordable:
        why = "no kind of machine is what is asked for"
        if fitting:
            names = ", ".join(kind.name for kind in fitting)
            why = f"{names} cost more than limits.max_price_per_hour = {cap:g}, or are not priced"
        raise CapacityError(f"SageMaker has no machine for this job: {why}.", ALLOW_MORE)
    return sorted(affordable, key=lambda offer: (offer.rank_price, offer.instance_type, offer.spot))


def _fits(kind: MlType, resources: Resources) -> bool:
    gpus = 1 if resources.gpu_count is None else resources.gpu_count
    wanted = resources.gpu_types
    return (
        kind.gpu_count == gpus
        and (not gpus or not wanted or matches(wanted, kind.gpu_type))
        and (not gpus or kind.vram_gb >= (resources.min_vram_gb or 0))
        and kind.ram_gb >= (resources.min_ram_gb or 0)
        and (not kind.own_disk_gb or kind.own_disk_gb >= (resources.disk_gb or 0))
    )


def _offer(
    kind: MlType, resources: Resources, region: str, price: float | None, *, spot: bool
) -> Offer:
    volume = 0.0 if kind.own_disk_gb else resources.disk_gb or DEFAULT_DISK_GB
    return Offer(
        provider="sagemaker",
        instance_type=kind.name,
        region=region,
        price_per_hour=price,
        host=f"{kind.name} in {region}",
        spot=spot,
        gpu_type=kind.gpu_type,
        gpu_count=kind.gpu_count,
        vram_gb=kind.vram_gb,
        disk_gb=kind.own_disk_gb or volume,
        ram_gb=kind.ram_gb,
        storage_gb=volume,
        storage_price=STORAGE_PRICE,
        traffic_price=TRAFFIC_PRICE,
    )
