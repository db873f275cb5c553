"""What a run has already, before anything is asked, priced or hired: found by id and mark."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from uuid import UUID

from blocks.models import Instance
from blocks.providers.absence import found_or_absent
from blocks.providers.base import Provider
from blocks.registry import load_provider
from flows.logger import logger
from flows.renting.hire import Hire
from flows.renting.journal import Journal
from flows.renting.keeping import claiming
from flows.renting.market import providers_of
from flows.renting.unknown_price import price_of
from trainer.config import TrainingJob
from trainer.contract.errors import HostKeyChanged, OrchestratorError

GREET_SECONDS = 10.0  # for a machine that is adopted to answer


async def note_strangers(job: TrainingJob, run_id: UUID, journal: Journal) -> None:
    """Open a row for every machine of this run in the accounts that the journal lacks."""
    for provider in await providers_of(job):
        try:
            instances = await provider.instances()
        except OrchestratorError as error:  # another provider may do; reconcile asks again
            logger().warning("%s cannot be asked: %s", provider.label, error.message)
            continue
        for instance in instances:
            mark = instance.mark
            if mark and mark.run_id == run_id and instance.status.is_billing:
                await note(job, provider, instance, journal)
    journal.hires.sort(key=lambda hire: (hire.attempt, hire.rank))
    journal.save()


async def note(job: TrainingJob, provider: Provider, instance: Instance, journal: Journal) -> None:
    """Have an open row for a machine that bears a mark of the journal's run."""
    hire = journal.of_instance(instance)
    if hire is None:
        if instance.mark is None:
            raise ValueError(f"{instance.id} bears no mark of ours")
        offer = instance.as_offer()
        price = await price_of(job, provider, offer, id=instance.id)
        hire = journal.add(instance.mark, offer, provider.label, price=price)
    hire.instance_id = instance.id
    hire.seen(instance)
    hire.ended_at = None  # it may have been given up as never hired, and exists after all


async def still_ours(hire: Hire) -> Instance | None:
    """Return the machine of an open row; None when it is proven absent, or is another run's now."""
    provider = await load_provider(hire.provider)
    # By the mark first, because that is asked anew; a look by the id may be some seconds old.
    instance = await provider.find(hire.mark)
    if instance is None or instance.id != (hire.instance_id or instance.id):
        instance = await found_or_absent(provider, hire.mark, hire.instance_id)
    if instance is None or instance.mark in {hire.mark, None}:
        return instance
    # Our process died between its note that it takes over a kept machine and the change of mark.
    if instance.mark.run_id is None and instance.mark.kept_until > time.time():
        async with claiming(provider, instance):
            now = await provider.find(instance.mark)
            if now and now.id == instance.id and await provider.remark(now.id, hire.mark):
                Journal.close_kept(instance.mark, "taken over by the next job")
                return dataclasses.replace(now, mark=hire.mark)
    return None


async def as_it_was(hire: Hire, instance: Instance) -> Instance:
    """Return a machine that was ready once and may be training, reached or not.

    It is not given up for being out of reach now: the steps that follow wait for it, and know when
    it is lost.

    Raises:
        HostKeyChanged: what answers is not the machine that was hired.
    """
    provider = await load_provider(hire.provider)
    try:
        async with asyncio.timeout(GREET_SECONDS), provider.workplace(instance) as workplace:
            await workplace.greet()
            hire.exists()
    except HostKeyChanged:
        raise
    except (OrchestratorError, TimeoutError) as error:
        logger().warning("%s does not answer yet: %s", instance.id, error)
    return dataclasses.replace(instance, provider=hire.provider, workspace=hire.workspace)
