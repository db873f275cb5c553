"""Keep a machine for the next job of the same shape, under a mark that says until when."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

from blocks.home import home, private_folder
from blocks.keys import MachineKeys
from blocks.marks import Mark
from blocks.models import Instance, InstanceStatus
from blocks.providers.absence import found_or_absent
from blocks.providers.base import Provider
from blocks.registry import load_provider
from flows.locks import locked
from flows.logger import logger
from flows.renting.budget import Budget
from flows.renting.hire import Hire
from flows.renting.journal import Journal
from flows.renting.unknown_price import price_of
from trainer.config import TrainingJob
from trainer.contract.errors import OrchestratorError

MARGIN_SECONDS = 30.0  # a machine that ends itself within this is of no use to a new job


def shape(provider: Provider, job: TrainingJob) -> str:
    """Return 8 digits that machines share when one can replace the other."""
    # All that was asked of the machine, but for how many threads a trainer on it uses.
    wanted = f"{provider.label} {job.resources.model_dump_json(exclude={'cpu_threads'})}"
    return hashlib.sha256(wanted.encode()).hexdigest()[:8]


async def keep(job: TrainingJob, journal: Journal, hire: Hire, instance: Instance) -> bool:
    """Leave a machine to the next job; False when it must be given back instead.

    From here on nobody renews its lease: it ends itself when its time is up, and reconcile ends
    it when it does not.
    """
    provider = await load_provider(hire.provider)
    seconds = seconds_kept(job, journal)
    if seconds <= 0 or provider.is_home or job.resources.nodes > 1:
        return False
    mark = Mark.kept(time.time() + seconds, shape(provider, job))
    try:
        async with provider.workplace(instance) as workplace:
            # The next job must not find this one's files. Before the change of mark: from then on
            # no flow owns it, and only the lease ends it.
            await workplace.vacate(seconds)
        # A switch that the provider holds would else end it a lease's term from now.
        await provider.renew(instance.id, seconds)
        if not await provider.remark(instance.id, mark):
            return False
    except OrchestratorError as error:
        logger().warning("the machine cannot be kept: %s", error.message)
        return False
    logger().info("kept %s for %g minutes", instance.id, round(seconds / 60, 1))
    journal.keep(hire, mark, ends_bill=provider.shutdown_ends_bill)
    await journal.publish()
    return True


async def claim(
    provider: Provider, job: TrainingJob, journal: Journal
) -> tuple[Hire, Instance] | None:
    """Take over a kept machine of the job's shape: it bears this run's mark from now on."""
    if provider.is_home:
        return None
    wanted = shape(provider, job)
    for instance in await provider.instances():
        if not _suits(instance, wanted):
            continue
        async with claiming(provider, instance, wait=False) as alone:
            # Looked at once more: it may have been taken, or ended, since the list was made.
            now = await provider.find(instance.mark) if alone and instance.mark else None
            if now is None or now.id != instance.id or not _suits(now, wanted):
                continue
            price = await price_of(job, provider, now.as_offer(), id=now.id)
            if hire := await _claimed(provider, now, journal, price):
                return hire, dataclasses.replace(now, mark=hire.mark)
    return None


def seconds_kept(job: TrainingJob, journal: Journal) -> float:
    """Return how long a machine waits for the next job: this one pays, as far as its money goes."""
    wanted = job.keep_minutes * 60
    paid_for = Budget(job, journal).seconds_left()
    if paid_for >= wanted:
        return wanted
    return paid_for if paid_for > MARGIN_SECONDS else 0.0


@asynccontextmanager
async def claiming(
    provider: Provider, instance: Instance, *, wait: bool = True
) -> AsyncIterator[bool]:
    """Hold the lock by which taking over a kept machine and ending it exclude each other.

    Args:
        provider: whose it is.
        instance: the machine.
        wait: until it is free; otherwise the body runs without it, and must look at what it is
            given.
    """
    folder = private_folder(home() / "claims")
    async with locked(
        folder / f"{provider.provider_name}-{quote(instance.id, safe='')}", wait=wait
    ) as alone:
        yield alone


def _suits(instance: Instance, shape: str) -> bool:
    kept = instance.mark
    return (
        kept is not None
        and kept.run_id is None
        and kept.shape == shape
        and kept.kept_until >= time.time() + MARGIN_SECONDS
        and instance.status is InstanceStatus.RUNNING
        and MachineKeys.of(instance.provider, instance.id, kept).private_key.exists()
    )


async def _claimed(
    provider: Provider, instance: Instance, journal: Journal, price: float
) -> Hire | None:
    """Let a kept machine bear this run's mark; None when the provider does not do that."""
    # The row comes first: this run must pay from the moment that it owns the machine.
    hire = journal.begin(instance.as_offer(), provider.label, price=price)
    hire.instance_id = instance.id
    journal.save()
    if instance.mark and await _bears(provider, instance.id, hire.mark):
        Journal.close_kept(instance.mark, "taken over by the next job")
        return hire
    journal.end(hire, "could not be taken over")
    return None


async def _bears(provider: Provider, id: str, mark: Mark) -> bool:
    """Give a machine another mark; when the answer is lost, what it bears decides."""
    try:
        return await provider.remark(id, mark)
    except OrchestratorError as error:
        logger().warning("whether %s bears %s is not known yet: %s", id, mark, error.message)
        now = await found_or_absent(provider, mark, id)
        return now is not None and now.mark == mark
