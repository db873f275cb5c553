"""What a region has for hire: one offer per type and zone, within quotas and price."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from blocks.models import Offer
from blocks.providers.aws import prices
from blocks.providers.aws.answers import family_of, host_of, vcpus_of
from blocks.providers.aws.client import Aws
from blocks.providers.aws.kinds import (
    EGRESS_GB,
    GB_MONTH,
    KINDS,
    ON_DEMAND,
    PUBLIC_ADDRESS,
    SPOT,
    MachineType,
)
from blocks.providers.aws.network import Places
from blocks.providers.aws.ordering import DISK_GIB, IMAGE_GIB, volume_gib
from blocks.providers.cloud import ALLOW_MORE
from blocks.providers.gpu_names import matches
from trainer.config import Limits, Resources
from trainer.contract.errors import (
    CapacityError,
    ConnectionLost,
    OrchestratorError,
    QuotaError,
    RateLimited,
)

logger = logging.getLogger(__name__)

OFFERINGS_SECONDS = 600.0  # how old what is offered where may be
QUOTA_SECONDS = 300.0  # how old a quota may be
CPU_CHOICES = 6  # for a job without GPUs: the cheapest types that fit

Rows = list[dict[str, Any]]


def fitting(resources: Resources) -> list[MachineType]:
    """Return the types that are what is asked for, whatever they cost."""
    gpus = 1 if resources.gpu_count is None else resources.gpu_count
    found = [
        kind
        for kind in KINDS.values()
        if kind.gpus == gpus
        and (not gpus or matches(resources.gpu_types, kind.gpu))
        and kind.vram_gb >= ((resources.min_vram_gb or 0) if gpus else 0)
        and kind.ram_gb >= (resources.min_ram_gb or 0)
        and kind.vcpus >= (resources.cpu_threads or 0 if not gpus else 0)
    ]
    found.sort(key=lambda kind: kind.price)
    return found if gpus else found[:CPU_CHOICES]


async def offers_in(
    aws: Aws,
    places: Places,
    used: Mapping[tuple[str, bool], int],
    resources: Resources,
    limits: Limits,
) -> tuple[list[Offer], list[QuotaError]]:
    """Return the offers of a region, and what its quotas ruled out.

    Args:
        aws: the region.
        places: its usable zones.
        used: vCPUs in use, by family and whether they are spot.
        resources: what is asked for.
        limits: what it may use.
    """
    kinds = {kind.name: kind for kind in fitting(resources)}
    if not kinds:
        return [], []
    zones = await _zones(aws, kinds)
    offers: list[Offer] = []
    refused: list[QuotaError] = []
    for spot in [False, True] if resources.spot is None else [resources.spot]:
        allowed = {}
        for name, kind in kinds.items():
            if short := await _short(aws, kind, used, spot=spot):
                refused.append(short)
            else:
                allowed[name] = kind
        by_zone = await _prices(aws, allowed, zones, spot=spot)
        for (name, zone), price in by_zone.items():
            if zone in places.subnets:
                kind, private = allowed[name], places.private
                offers.append(
                    _offer(kind, aws.region, zone, price, resources, spot=spot, private=private)
                )
    cap = limits.max_price_per_hour or math.inf
    return [offer for offer in offers if offer.rank_price <= cap], refused


async def _zones(aws: Aws, kinds: Mapping[str, MachineType]) -> list[tuple[str, str]]:
    """Return the pairs of type and zone that exist: not every type is in every zone of its region."""
    names = sorted(kinds)

    async def fetch() -> list[tuple[str, str]]:
        request = {
            "LocationType": "availability-zone",
            "Filters": [{"Name": "instance-type", "Values": names}],
        }
        rows = await aws.rows("DescribeInstanceTypeOfferings", request, "InstanceTypeOfferings")
        return [(str(row.get("InstanceType")), str(row.get("Location"))) for row in rows]

    return await aws.shared(f"zones {names}", OFFERINGS_SECONDS, fetch)


async def _prices(
    aws: Aws, kinds: Mapping[str, MachineType], zones: Iterable[tuple[str, str]], *, spot: bool
) -> dict[tuple[str, str], float | None]:
    """Return the price of each type and zone; for spot only of those that have a market."""
    zones = [(name, zone) for name, zone in zones if name in kinds]
    if not zones:
        return {}
    if spot:
        known = await prices.spot(aws, kinds)
        return {pair: known[pair] for pair in zones if pair in known}
    by_type = await prices.on_demand(aws, {name for name, _ in zones})
    return {(name, zone): by_type[name] for name, zone in zones}


def _offer(
    kind: MachineType,
    region: str,
    zone: str,
    price: float | None,
    resources: Resources,
    *,
    spot: bool,
    private: bool,
) -> Offer:
    disk = resources.disk_gb or DISK_GIB
    return Offer(
        provider="aws",
        instance_type=kind.name,
        region=region,
        zone=zone,
        # The zone stands beside it: all zones of a kind count as one kind that is tried.
        id=f"{kind.name} spot" if spot else kind.name,
        host=host_of(kind.name, zone),
        price_per_hour=price,
        spot=spot,
        gpu_type=kind.gpu if kind.gpus else None,
        gpu_count=kind.gpus,
        vram_gb=kind.vram_gb,
        disk_gb=disk,
        ram_gb=kind.ram_gb,
        storage_gb=float(volume_gib(disk, IMAGE_GIB)),
        storage_price=GB_MONTH,
        beside_per_hour=0.0 if private else PUBLIC_ADDRESS,
        traffic_price=EGRESS_GB,
    )


def no_offer(
    errors: list[OrchestratorError], regions: list[str], limits: Limits
) -> OrchestratorError:
    """Return why there is no offer: what was refused says more than that there is none."""
    for kind in (ConnectionLost, RateLimited):
        for error in errors:
            if isinstance(error, kind):
                return error
    if errors:
        return errors[0]
    price = limits.max_price_per_hour
    return CapacityError(
        f"AWS has no machine for this job in {', '.join(regions)}"
        f"{f' at limits.max_price_per_hour = {price:g}' if price else ''}.",
        ALLOW_MORE,
    )


# Quotas ---------------------------------------------------------------------------------------


def used_vcpus(rows: Rows) -> Counter[tuple[str, bool]]:
    """Return the vCPUs that instances count in quotas, by family and whether they are spot."""
    used: Counter[tuple[str, bool]] = Counter()
    for row in rows:
        state = row.get("State")
        if isinstance(state, dict) and str(state.get("Name")) in {"pending", "running"}:
            spot = row.get("InstanceLifecycle") == "spot"
            used[family_of(str(row.get("InstanceType"))), spot] += vcpus_of(row)
    return used


async def _short(
    aws: Aws, kind: MachineType, used: Mapping[tuple[str, bool], int], *, spot: bool
) -> QuotaError | None:
    """Return why the account may not have a machine of this type; None: it may, or nobody knows."""
    code, name = (SPOT if spot else ON_DEMAND)[kind.family]
    limit = await quota(aws, code)
    # On demand all types with P count against one quota.
    families = [f for f in ON_DEMAND if (SPOT if spot else ON_DEMAND)[f][0] == code]
    taken = sum(used.get((family, spot), 0) for family in families)
    if limit is None or limit - taken >= kind.vcpus:
        return None
    return QuotaError(
        f"{kind.name} has {kind.vcpus} vCPUs, and the quota {name!r} ({code}) of {aws.region} is "
        f"{limit:g}{f', of which {taken} are in use' if taken else ''}.",
        f"Ask for more at Service Quotas in {aws.region}, or allow other regions.",
    )


async def quota(aws: Aws, code: str) -> float | None:
    """Return the vCPUs that a quota allows; None: AWS does not say, which is no 0."""

    async def fetch() -> float | None:
        # Code by code: the list of all is throttled, and would make every offer vanish.
        request = {"ServiceCode": "ec2", "QuotaCode": code}
        try:
            found = await aws.ask("service-quotas", "GetServiceQuota", request)
        except OrchestratorError as error:
            logger.info("the quota %s is not known: %s", code, error.message)
            return None
        value = (found.get("Quota") or {}).get("Value")
        return float(value) if isinstance(value, int | float) and value >= 0 else None

    return await aws.shared(f"quota {code}", QUOTA_SECONDS, fetch)
