"""From an order to a machine that is ready: running, reached by SSH, its GPUs and disk checked."""

from __future__ import annotations

import asyncio
import dataclasses
import time

from blocks.models import Instance, InstanceStatus
from blocks.providers.absence import Absence
from blocks.providers.base import Provider
from blocks.workplaces.base import Lease, Ready, Wanted
from flows.logger import logger
from flows.renting.hire import Hire
from trainer.config import TrainingJob
from trainer.contract.errors import BootError, ConnectionLost, RateLimited

LOOK_SECONDS = 0.5  # providers with stricter rate limits answer from their last list
LOST_SECONDS = 5.0  # how long a provider must keep saying "gone" or "taken back" to be believed


async def boot(provider: Provider, hire: Hire, instance: Instance, job: TrainingJob) -> Instance:
    """Wait until a machine is ready; from then on its lease runs.

    Raises:
        BootError: it did not come up in time, or is not what was ordered.
        HostKeyChanged: what answers is not the machine that answered before.
        ProviderError: the provider took the order and failed it afterwards.
    """
    if provider.is_home:
        return instance
    minutes = job.limits.boot_timeout_minutes or provider.boot_minutes
    # A machine that an earlier process ordered gets 30 s even when its time is over: it may have
    # become ready while no process of ours looked. A limit below 30 s stays the limit.
    deadline = time.monotonic() + max(30.0, minutes * 60 - hire.seconds())
    deadline = min(deadline, time.monotonic() + minutes * 60)
    running, deadline = await _running(provider, hire, instance, deadline, minutes)
    found = await _answering(provider, hire, running, job, deadline, minutes)
    logger().info(
        "%s is ready after %.0f s: %s, %.0f GiB of disk free",
        running.id,
        hire.seconds(),
        ", ".join(found.gpus) or "CPU",
        found.disk_free_gb,
    )
    return dataclasses.replace(running, workspace=f"{found.jobs}/{running.mark}")


async def _running(
    provider: Provider, hire: Hire, instance: Instance, deadline: float, minutes: float
) -> tuple[Instance, float]:
    """Return the machine once it runs, and by when it has to answer."""
    said, lost_since = "", None
    absence = Absence(provider.settle_seconds)
    absence.seen(instance)
    while instance.status is not InstanceStatus.RUNNING or not instance.address:
        # An order that the provider took and failed afterwards is not its host's fault.
        if instance.failure:
            raise instance.failure
        now = time.monotonic()
        if instance.status is InstanceStatus.QUEUED:
            # Others decide when it begins: that is no part of booting, and is not billed.
            hire.order()
            deadline = now + minutes * 60
        lost_since = (lost_since or now) if instance.status.is_lost else None
        is_lost = lost_since is not None and now - lost_since >= LOST_SECONDS
        if is_lost or absence.is_proven:
            raise BootError(
                f"{instance.id} became {instance.status} before it was running"
                f"{f': {instance.detail}' if instance.detail else ''}."
            )
        if now >= deadline:
            raise BootError(
                f"{instance.id} was not running after {minutes:g} minutes; it is "
                f"{instance.status}{f': {instance.detail}' if instance.detail else ''}."
            )
        word = f"{instance.status} {instance.detail}".strip()
        if word != said:
            logger().info("%s is %s", instance.id, word)
            said = word
        await asyncio.sleep(LOOK_SECONDS)
        instance = await _described(provider, instance)
        absence.seen(instance)
    return instance, deadline


async def _described(provider: Provider, instance: Instance) -> Instance:
    """Return what the provider says; while it says nothing, what it said last."""
    try:
        now = await provider.describe(instance.id)
    except (ConnectionLost, RateLimited) as error:
        logger().warning("%s", error.message)
        return instance
    # Keep the mark by which the journal knows it, whatever the provider's list still shows.
    return dataclasses.replace(now, mark=instance.mark)


async def _answering(
    provider: Provider,
    hire: Hire,
    instance: Instance,
    job: TrainingJob,
    deadline: float,
    minutes: float,
) -> Ready:
    said = ""
    while True:
        try:
            left = max(1.0, deadline - time.monotonic())
            async with asyncio.timeout(left), provider.workplace(instance) as workplace:
                wanted = Wanted(
                    gpu_count=instance.gpu_count,
                    gpu_type=instance.gpu_type if instance.gpu_count else None,
                    disk_gb=job.resources.disk_gb,
                )
                return await workplace.ready(wanted, Lease.of(job.limits))
        except (ConnectionLost, TimeoutError) as error:
            # A timeout says nothing of its own: the last reason heard explains more.
            why = error.message if isinstance(error, ConnectionLost) else said or "no response"
            if time.monotonic() >= deadline:
                raise BootError(
                    f"{instance.id} runs, but was not reached within {minutes:g} minutes: {why}"
                ) from error
            if why != said:  # once per reason: this loop turns every second
                logger().info("%s runs, and is not reached yet: %s", instance.id, why)
                said = why
        # Ports move while a machine starts, and it may vanish meanwhile.
        described = await _described(provider, instance)
        instance, deadline = await _running(provider, hire, described, deadline, minutes)
