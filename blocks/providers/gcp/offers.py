"""What Compute Engine has for a job, within its quotas."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from blocks.models import Offer
from blocks.providers.cloud import ALLOW_MORE
from blocks.providers.gcp.answers import ASK_QUOTA
from blocks.providers.gcp.table import KINDS, MachineKind, extras_of, price_in, region_of, zones_of
from blocks.providers.gpu_names import matches
from trainer.config import Limits, Resources
from trainer.contract.errors import CapacityError, QuotaError, Scope

IMAGE_GB = 50.0
"""That an image with drivers takes: no disk may be smaller, and a job's own comes on top."""


def fitting(resources: Resources) -> dict[str, MachineKind]:
    """Return the kinds of machines that are what is asked for.

    Raises:
        CapacityError: there is none.
    """
    count = 1 if resources.gpu_count is None else resources.gpu_count
    found = {
        name: kind
        for name, kind in KINDS.items()
        if kind.count == count
        and kind.ram_gb >= (resources.min_ram_gb or 0)
        and not (kind.spot_only and resources.spot is False)
        and (not count or kind.vram_gb >= (resources.min_vram_gb or 0))
        and (not count or matches(resources.gpu_types, kind.gpu))
    }
    if not found:
        names = sorted({f"{kind.count} × {kind.gpu}" for kind in KINDS.values() if kind.gpu})
        raise CapacityError(
            f"Google Cloud has no kind of machine that fits resources; with GPUs there are "
            f"{', '.join(names)}.",
            ALLOW_MORE,
        )
    return found


def offers_of(
    kinds: Mapping[str, MachineKind],
    resources: Resources,
    *,
    places: Collection[str],
    disk_gb: float,
    public: bool,
) -> list[Offer]:
    """Return an offer for every kind and zone, and one for spot where that is asked for.

    Args:
        kinds: by name; those of `fitting`.
        resources: what is asked for.
        places: the zones and regions that the account is set up for; empty: any.
        disk_gb: of the boot disk, where image and job need less.
        public: whether machines get an address of their own.
    """
    wanted = set(resources.regions)
    disk = float(math.ceil(max(disk_gb, IMAGE_GB + (resources.disk_gb or 0.0))))
    return [
        Offer(
            provider="gcp",
            instance_type=name,
            region=region_of(zone),
            zone=zone,
            # Of its own, so that a lack of spot machines rules out no other of the zone.
            id=f"{name} spot" if spot else name,
            host=f"{name} in {zone}",
            spot=spot,
            price_per_hour=price_in(kind, region_of(zone), spot=spot),
            gpu_type=kind.gpu,
            gpu_count=kind.count,
            vram_gb=kind.vram_gb,
            disk_gb=disk - IMAGE_GB,
            ram_gb=kind.ram_gb,
            **extras_of(disk, spot=spot, public=public),
        )
        for name, kind in kinds.items()
        for zone in _zones(kind, places)
        for spot in ([False, True] if resources.spot is None else [resources.spot])
        if (spot or not kind.spot_only) and (not wanted or {zone, region_of(zone)} & wanted)
    ]


def _zones(kind: MachineKind, places: Collection[str]) -> list[str]:
    """Return where a kind is to be had, of the places that are set."""
    zones = zones_of(kind)
    return [zone for zone in zones if not places or {zone, region_of(zone)} & {*places}]


def places_without(places: Collection[str]) -> list[str]:
    """Return the zones and regions, of those that are set, that have no kind of machine."""
    zones = {zone for kind in KINDS.values() for zone in zones_of(kind)}
    return sorted({*places} - zones - {region_of(zone) for zone in zones})


class Quotas:
    """What the project may still have; what it does not say is not known, and rules out nothing."""

    def __init__(self, project: Mapping[str, Any], regions: Iterable[Mapping[str, Any]]) -> None:
        """Read the answers to a project's and its regions' look-ups.

        Raises:
            LookupError, TypeError, ValueError: they are not as described.
        """
        self._project = _left(project)
        self._regions = {str(region["name"]): _left(region) for region in regions}

    def lacking(self, offer: Offer) -> str:
        """Return which quota has no room for a machine; empty where none is known to."""
        kind = KINDS[offer.instance_type]
        needs = [
            *self._gpus(offer, kind),
            *self._lacks(self._project, "", {"CPUS_ALL_REGIONS": kind.vcpus}),
        ]
        return next(iter(needs), "")

    def _gpus(self, offer: Offer, kind: MachineKind) -> Iterator[str]:
        if not kind.count:
            return
        yield from self._lacks(self._project, "", {"GPUS_ALL_REGIONS": kind.count})
        left = self._regions.get(offer.region, {})
        names = [name for name in (f"PREEMPTIBLE_{kind.metric}", kind.metric) if name in left]
        # Either will do: spot machines fall back on the standard quota, and machines that are to be
        # deleted within a week may draw on the one for spot machines.
        if kind.metric and names and all(left[name] < kind.count for name in names):
            yield f"{names[-1]} in {offer.region}: {left[names[-1]]:g} left"

    @staticmethod
    def _lacks(left: Mapping[str, float], where: str, needs: Mapping[str, float]) -> Iterator[str]:
        for metric, number in needs.items():
            if metric in left and left[metric] < number:
                yield f"{metric}{where}: {left[metric]:g} left"

    def summary(self) -> str:
        """Return what is left of the project's own quota of GPUs, in words."""
        left = self._project.get("GPUS_ALL_REGIONS")
        return "" if left is None else f"room for {left:g} GPUs (GPUS_ALL_REGIONS)"


def _left(row: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for quota in row.get("quotas") or ():
        limit, usage = quota.get("limit"), quota.get("usage")
        if isinstance(limit, (int, float)) and isinstance(usage, (int, float)):
            found[str(quota["metric"])] = float(limit) - float(usage)
    return found


def within(offers: Sequence[Offer], limits: Limits, quotas: Quotas) -> list[Offer]:
    """Return what the quotas and the cap allow, cheapest first.

    Raises:
        QuotaError: no quota has room; it names one.
        CapacityError: all are too dear, or no place that is allowed has any.
    """
    if not offers:
        raise CapacityError(
            "Google Cloud has machines that fit, but in no zone or region that is allowed.",
            "Allow other regions in resources, or in GCP_ZONES and GCP_REGIONS.",
        )
    lacks = {offer: quotas.lacking(offer) for offer in offers}
    allowed = [offer for offer in offers if not lacks[offer]]
    if not allowed:
        which = sorted(set(lacks.values()))
        error = QuotaError(
            f"The project's quota has no room for this job: {'; '.join(which[:5])}.", ASK_QUOTA
        )
        raise error.ruling_out(Scope.ACCOUNT)
    cap = limits.max_price_per_hour
    cheap = [offer for offer in allowed if cap is None or offer.rank_price <= cap]
    if not cheap:
        least = min(offer.rank_price for offer in allowed)
        raise CapacityError(
            f"Google Cloud's cheapest machine that fits costs {least:.4g} USD per hour with its "
            f"disk, more than limits.max_price_per_hour = {cap:g}.",
            "Raise limits.max_price_per_hour, or allow more in resources.",
        )
    return sorted(cheap, key=lambda offer: (offer.rank_price, offer.host))
