"""The lease of a rented machine: we renew it while we live, and it ends the machine when not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from blocks.models import Instance
from blocks.registry import load_provider
from blocks.task_scope import TaskScope
from blocks.workplaces.base import Lease
from flows.renting.contact import note_contact
from flows.run_folder import RunFolder
from trainer.config import Limits, TrainingJob
from trainer.contract.errors import OrchestratorError

MOST_SECONDS = 30.0  # between two renewals


@asynccontextmanager
async def renewed(
    job: TrainingJob, run: RunFolder, instances: Sequence[Instance]
) -> AsyncIterator[None]:
    """Renew the leases of a run's machines while the body runs; this computer needs none."""
    # Renewed by the flow's process, so that nothing of ours has to work for a machine to end.
    provider = await load_provider(instances[0].provider)
    if provider.is_home:
        yield
        return
    async with TaskScope() as scope:
        for instance in instances:
            scope.start(_renew(job.limits, run, instance))
        yield


async def _renew(limits: Limits, run: RunFolder, instance: Instance) -> None:
    provider = await load_provider(instance.provider)
    lease = Lease.of(limits)
    term = lease.term_seconds
    async with provider.workplace(instance) as workplace:
        while True:
            # Not this task's business: `flows.renting.liveness` notices, and decides.
            with suppress(OrchestratorError, TimeoutError):
                async with asyncio.timeout(term):
                    await workplace.renew(lease)
                    note_contact(run)
                    # After the machine's own: the provider ends one that has ceased to renew it.
                    await provider.renew(instance.id, lease.whole_seconds)
            # At least five times a term, so that one or two that fail do not end a training.
            await asyncio.sleep(min(MOST_SECONDS, term / 5))
