"""Keep a machine for the next job of the same shape, under a name that says until when."""

from __future__ import annotations

import hashlib
import time

from blocks.home import home
from blocks.keys import MachineKeys
from blocks.machines.sentinel import renew
from blocks.models import Instance, InstanceStatus
from blocks.names import kept_name, ours
from blocks.providers.base import Provider
from blocks.registry import load_provider
from flows.locks import locked
from flows.logger import logger
from flows.renting.journal import Hire, Journal
from flows.renting.lease import base_of
from trainer.config import TrainingJob
from trainer.contract.errors import OrchestratorError

MARGIN_SECONDS = 30.0  # a machine that ends itself within this is of no use to a new job


def public_key(name: str) -> str:
    """Return the public key for a machine that is about to be hired under a name."""
    return MachineKeys(name).public_key()


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
    seconds = job.keep_minutes * 60
    if seconds <= 0 or provider.is_home or job.resources.nodes > 1:
        return False
    name = kept_name(time.time() + seconds, shape(provider, job))
    try:
        async with provider.machine(instance) as machine:
            # The next job must not find this one's files. Environments and data stay for it.
            await machine.run(["rm", "-rf", "--", instance.workspace], timeout=60)
            # Before the rename: from then on no flow owns it, and only the lease ends it.
            await renew(machine, base_of(instance), None, seconds)
        # Keys first: as soon as the machine bears the new name, another job may claim it and look
        # for them under that name.
        MachineKeys(instance.name).rename(name)
        if not await provider.rename(instance.id, name):
            MachineKeys(name).rename(instance.name)
            return False
    except OrchestratorError as error:
        logger().warning("the machine cannot be kept: %s", error.message)
        return False
    logger().info("kept %s for %g minutes", instance.id, job.keep_minutes)
    journal.keep(hire, name, seconds)
    await journal.publish()
    return True


async def claim(
    provider: Provider, job: TrainingJob, journal: Journal
) -> tuple[Hire, Instance] | None:
    """Take over a kept machine of the job's shape: it bears this run's name from now on."""
    if provider.is_home:
        return None
    wanted = shape(provider, job)
    async with locked(home() / "claims.lock"):  # two jobs must not take the same machine
        for instance in await provider.instances():
            kept = ours(instance.name)
            if (
                kept is None
                or kept.shape != wanted
                or kept.kept_until < time.time() + MARGIN_SECONDS
                or instance.status is not InstanceStatus.RUNNING
                or not MachineKeys(instance.name).private_key.exists()
            ):
                continue
            # The row comes first: this run must pay from the moment that it owns the machine.
            hire = journal.begin(instance.as_offer(), provider.label)
            hire.instance_id = instance.id
            journal.save()
            MachineKeys(instance.name).rename(hire.name)
            if await provider.rename(instance.id, hire.name):
                Journal.close_kept(instance.name, "taken over by the next job")
                return hire, await provider.describe(instance.id)
            MachineKeys(hire.name).rename(instance.name)
            journal.end(hire, "could not be taken over")
    return None
