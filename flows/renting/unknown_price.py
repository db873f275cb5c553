"""What a machine counts as costing, also where nobody says its price: never nothing."""

from __future__ import annotations

from collections.abc import Iterable

from blocks.models import Offer
from blocks.providers.base import Provider
from flows.logger import logger
from flows.renting.hire import Hire
from flows.renting.journal import Journal
from flows.run_folder import RunFolder, run_folders
from trainer.config import Limits, Resources, TrainingJob
from trainer.contract.errors import OrchestratorError

# USD per hour, where nothing at all is known: no less than eight of the dearest GPUs cost.
DEAREST = 50.0


async def price_of(job: TrainingJob, provider: Provider, offer: Offer, *, id: str = "") -> float:
    """Return what a machine counts as costing, in USD per hour.

    Where nobody says it, that is the dearest that its provider offers of its kind; or what its row
    in the journal of another run says, which kept it; or else the dearest that is known of the
    provider.

    Args:
        job: the job that it is for.
        provider: whose it is.
        offer: what it is.
        id: the provider's own name for it, where it exists already.
    """
    if offer.price_per_hour or (offer.price_per_hour is not None and provider.may_be_free):
        return offer.price_per_hour
    found = await _offers(provider, job.resources, job.limits)
    if price := _dearest(one for one in found if one.instance_type == offer.instance_type):
        return price
    rows = [
        hire
        for folder in run_folders()
        for hire in Journal.of(RunFolder(folder.name)).hires
        if hire.provider == provider.label
    ]
    for same in (
        [hire for hire in rows if id and hire.instance_id == id][-1:],
        [hire for hire in rows if hire.instance_type == offer.instance_type],
    ):
        if price := _dearest(same):
            return price
    # What is sold out for this job may still be known by what is for hire beside it.
    count = offer.gpu_count or job.resources.gpu_count
    found = found or await _offers(provider, Resources(gpu_count=count), Limits())
    price = _dearest(found) or _dearest(rows) or job.limits.max_price_per_hour or DEAREST
    logger().warning(
        "nobody says what %s of %s costs: it counts as %.4g USD/h, the dearest that is known",
        id or offer.instance_type or "a machine",
        provider.label,
        price,
    )
    return price


async def _offers(provider: Provider, resources: Resources, limits: Limits) -> list[Offer]:
    """Return what is for hire; nothing when the provider does not say."""
    try:
        return await provider.offers(resources, limits)
    except OrchestratorError as error:
        logger().debug("%s makes no offer: %s", provider.label, error.message)
        return []


def _dearest(machines: Iterable[Offer | Hire]) -> float:
    return max((one.price_per_hour or 0.0 for one in machines), default=0.0)
