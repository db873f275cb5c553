"""Offers: sizes, what of them the quota leaves, and prices, of each location that may be used."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from blocks.models import Offer
from blocks.providers.api import Api
from blocks.providers.azure.answers import spent
from blocks.providers.azure.offers import (
    WHOLE_QUOTA,
    CoreQuota,
    Size,
    affordable,
    disk_gib,
    lacking,
    offer_of,
    quotas_of,
    sizes_in,
)
from blocks.providers.azure.prices import Key, prices_in
from blocks.providers.azure.resources import Group, pages, version
from blocks.providers.cloud import as_described
from trainer.config import Limits, Resources
from trainer.contract.errors import OrchestratorError

SIZES_SECONDS = 240.0  # how old the list of sizes may be: it has several thousand rows
QUOTA_SECONDS = 30.0  # how old the quota may be


@dataclass(kw_only=True)
class ForHire:
    """What one search found, and what it left out."""

    offers: list[Offer] = field(default_factory=list)
    without_quota: dict[str, str] = field(default_factory=dict)
    """Sizes that fit and that the quota leaves no room for, each with the reason."""
    too_dear: set[str] = field(default_factory=set)


async def sizes_of(api: Api, group: Group, location: str) -> list[Size]:
    """Return the sizes of a location that the image is for."""

    async def fetch() -> list[Size]:
        path = f"{group.account}/providers/Microsoft.Compute/skus"
        params = {**version("skus"), "$filter": f"location eq '{location}'"}
        return [
            size for size in sizes_in(await pages(api, path, params), location) if size.is_known
        ]

    return await api.shared(f"sizes {location}", SIZES_SECONDS, fetch)


async def quotas_in(api: Api, group: Group, location: str) -> Mapping[str, CoreQuota]:
    """Return what is used and may be, in vCPUs, by the names of the families in lower case."""

    async def fetch() -> Mapping[str, CoreQuota]:
        path = f"{group.account}/providers/Microsoft.Compute/locations/{location}/usages"
        rows = await pages(api, path, version("usages"))
        with as_described("Azure", f"GET {path}"):
            return quotas_of(rows)

    return await api.shared(f"quotas {location}", QUOTA_SECONDS, fetch)


async def search(
    api: Api,
    prices_api: Api,
    group: Group,
    locations: Sequence[str],
    zones: Collection[str],
    disk_gb: int,
    resources: Resources,
    limits: Limits,
    *,
    public: bool,
) -> ForHire:
    """Return what is for hire in some locations, with public addresses or without.

    Raises:
        OrchestratorError: none of them can be asked.
    """
    found = ForHire()
    look = partial(
        _look, api, prices_api, group, zones, disk_gb, resources, limits, found, public=public
    )
    answers = await asyncio.gather(*map(look, locations), return_exceptions=True)
    # One location that cannot be asked hides no other.
    errors = [one for one in answers if isinstance(one, BaseException)]
    unexpected = [one for one in errors if not isinstance(one, OrchestratorError)]
    if unexpected or (errors and len(errors) == len(locations)):
        raise (unexpected or errors)[0]
    return found


async def _look(
    api: Api,
    prices_api: Api,
    group: Group,
    zones: Collection[str],
    disk_gb: int,
    resources: Resources,
    limits: Limits,
    found: ForHire,
    location: str,
    *,
    public: bool,
) -> None:
    sizes, quotas = await asyncio.gather(
        sizes_of(api, group, location), quotas_in(api, group, location)
    )
    fitting = [size for size in sizes if size.fits(resources)]
    prices = await prices_in(prices_api, location, [size.name for size in fitting])
    disk = disk_gib(resources, disk_gb)
    for size in fitting:
        for spot in [False, True] if resources.spot is None else [resources.spot]:
            if spot and not size.takes_spot:
                continue
            if lack := lacking(size, quotas, spot=spot):
                found.without_quota[f"{size.name} in {location}"] = _words(size, *lack)
                continue
            for zone in _zones(size, zones):
                price = prices.get(_key(size, spot=spot))
                offer = offer_of(
                    size,
                    spot=spot,
                    zone=zone,
                    price=price,
                    resources=resources,
                    disk=disk,
                    public=public,
                )
                if affordable(offer, limits):
                    found.offers.append(offer)
                else:
                    found.too_dear.add(size.name)


def _key(size: Size, *, spot: bool) -> Key:
    return size.location, size.name, spot


def _zones(size: Size, wanted: Collection[str]) -> Iterator[str]:
    """Yield the zones to order in; by default one that stands for any of them."""
    if not wanted:
        yield ""
    yield from (zone for zone in size.zones if zone in wanted)


def _words(size: Size, name: str, quota: CoreQuota) -> str:
    shown = "Total Regional" if name == WHOLE_QUOTA else name
    error: Any = spent(
        shown,
        size.location,
        limit=f"{quota.limit:g}",
        used=f"{quota.used:g}",
        needed=size.vcpus,
    )
    return str(error.message)
