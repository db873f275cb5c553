"""What to ask Vast.ai's search for, and which of its rows will do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from blocks.models import Offer
from blocks.providers.gpu_names import matches
from blocks.providers.vast.answers import hired_gb, number, offer_of, storage_price
from trainer.config import Limits, Resources
from trainer.contract.errors import CapacityError

LAST_DIGIT = 1e-6  # USD per hour by which equal prices may differ
PAGE_ROWS = 64  # the most that one search returns
GPU_NAMES = (
    *("RTX 3060", "RTX 3070", "RTX 3080", "RTX 3080 Ti", "RTX 3090", "RTX 3090 Ti"),
    *("RTX 4060 Ti", "RTX 4070", "RTX 4070 Ti", "RTX 4070S Ti", "RTX 4080", "RTX 4080S"),
    *("RTX 4090", "RTX 4090D", "RTX 5060 Ti", "RTX 5070", "RTX 5070 Ti", "RTX 5080", "RTX 5090"),
    *("RTX A4000", "RTX A4500", "RTX A5000", "RTX A6000", "RTX 4000Ada", "RTX 4500Ada"),
    *("RTX 5000Ada", "RTX 6000Ada", "RTX PRO 6000 WS", "RTX PRO 6000 S", "A10", "A40", "L4", "L40"),
    *("L40S", "Tesla T4", "Tesla V100", "Q RTX 8000", "A100 PCIE", "A100 SXM4", "A100X"),
    *("H100 PCIE", "H100 SXM", "H100 NVL", "GH200 SXM", "H200", "H200 NVL", "B200", "B300 SXM6 AC"),
)
"""As Vast.ai spells them: a search finds whole names only."""


def query_for(
    resources: Resources, limits: Limits, *, spot: bool, host: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the body of a search.

    Args:
        resources: what is asked for.
        limits: what it may use.
        spot: whether to bid.
        host: filters on who rents out, by column.
    """
    minutes = limits.max_runtime_minutes or 24 * 60
    disk = hired_gb(resources.disk_gb)
    query: dict[str, Any] = {
        **host,
        "external": {"eq": False},
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "direct_port_count": {"gte": 1},
        "disk_space": {"gte": disk},
        "duration": {"gte": minutes * 60},  # until its host takes it back
        "type": "bid" if spot else "on-demand",
        # Prices in the answer include this disk, so that offers are compared as they are billed.
        "allocated_storage": disk,
        "order": [["dph_total", "asc"]],
        "limit": PAGE_ROWS,
    }
    if limits.max_price_per_hour:
        query["dph_total"] = {"lte": limits.max_price_per_hour}
    if resources.min_ram_gb:
        # The column is in MB. Hosts report a little less than the nominal size, hence 1000.
        query["cpu_ram"] = {"gte": resources.min_ram_gb * 1000}
    if resources.gpu_count == 0:  # there are no machines without a GPU: any is used as a CPU
        return query
    query["num_gpus"] = {"eq": resources.gpu_count or 1}
    if resources.min_vram_gb:
        query["gpu_ram"] = {"gte": resources.min_vram_gb * 1000}  # a 24 GB card has 24564 MB
    if resources.gpu_types:
        # The names asked for go along, in case they are of a GPU that is newer than the list.
        known = [name for name in GPU_NAMES if matches(resources.gpu_types, name)]
        query["gpu_name"] = {"in": sorted({*known, *resources.gpu_types})}
    return query


def fitting(
    row: Mapping[str, Any], resources: Resources, limits: Limits, *, spot: bool, bid_factor: float
) -> Offer | None:
    """Return a row as an offer, or None if it is not what is asked for, or cannot be read.

    Of one to bid for, the price is that of a bid above the lowest, as far as the cap allows.
    """
    try:
        return _fitting(row, resources, limits, spot=spot, bid_factor=bid_factor)
    except (AttributeError, LookupError, TypeError, ValueError):  # it hides no other
        return None


def _fitting(
    row: Mapping[str, Any], resources: Resources, limits: Limits, *, spot: bool, bid_factor: float
) -> Offer | None:
    gpus = 1 if resources.gpu_count is None else resources.gpu_count
    offer = offer_of(row, disk_gb=resources.disk_gb, gpu_count=gpus, spot=spot)
    cap = limits.max_price_per_hour or math.inf
    lowest = number(row.get("min_bid" if spot else "dph_total"))
    regions = places(*resources.regions)
    fits = (
        offer.id
        and lowest > 0  # a missing price must not look like a free machine
        and offer.rank_price <= cap
        and row.get("cpu_arch") in {None, "amd64"}  # as the image is
        and (not gpus or matches(resources.gpu_types, offer.gpu_type))
        and (not regions or regions & places(offer.region))
    )
    if not fits:
        return None
    # On the machine alone: the disk has a price of its own that no bid changes.
    margin = lowest * (bid_factor - 1) if spot else 0.0
    price = min(offer.rank_price + margin, cap)
    return dataclasses.replace(offer, price_per_hour=round(price, 6))


def bid_for(row: Mapping[str, Any], offer: Offer) -> float | None:
    """Return what to bid for an offer as it is now, in USD per hour without the disk.

    Returns:
        None where nothing is bid: on demand.

    Raises:
        CapacityError: it is dearer than it was.
    """
    now = offer_of(row, disk_gb=offer.disk_gb, gpu_count=offer.gpu_count, spot=offer.spot)
    if now.rank_price > offer.rank_price + LAST_DIGIT:
        raise CapacityError(
            f"Vast.ai's offer {offer.id} ({offer.host}) costs {now.rank_price:.4f} USD "
            f"per hour now, it was offered for {offer.rank_price:.4f}."
        )
    if not offer.spot:
        return None
    bid = offer.rank_price - storage_price(row, offer.disk_gb)
    # The lowest bid may have risen since the search, within the price offered; one below it is
    # refused.
    return max(bid, number(row.get("min_bid")))


def places(*regions: str) -> set[str]:
    """Return the words by which places may be asked for: the whole, the town, the country."""
    whole = {region.strip().casefold() for region in regions}
    return whole | {part.strip() for region in whole for part in region.split(",")}


def request_in_words(resources: Resources, limits: Limits) -> str:
    """Return what was asked for, in the words of the job file."""
    asked = {f"resources.{k}": v for k, v in resources.model_dump(exclude_defaults=True).items()}
    if limits.max_price_per_hour:
        asked["limits.max_price_per_hour"] = limits.max_price_per_hour
    return ", ".join(f"{name}: {value}" for name, value in asked.items()) or "a GPU"
