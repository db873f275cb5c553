"""The training flow: place → provision → install → train → download → verify → teardown.

Every step can be run again. After any death of this process, running the same flow run again
adopts the machine, attaches to the training and goes on where the log and the download stood.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows import outcome
from flows.run_folder import RunFolder, sole_owner
from flows.tasks.download import download
from flows.tasks.install import install
from flows.tasks.place import place
from flows.tasks.provision import provision
from flows.tasks.stream import stream
from flows.tasks.teardown import stop_training_of_dead_flow, teardown
from flows.tasks.verify import verify
from trainer.config import TrainingJob
from trainer.errors import OrchestratorError
from trainer.job_directory import JobState


@flow(
    name="train",
    flow_run_name="{job.name}",
    on_cancellation=[stop_training_of_dead_flow],
    persist_result=False,
)
async def train(job: TrainingJob) -> dict[str, Any] | State[Any]:
    """Train one model or adapter and bring it home, verified.

    Args:
        job: what to train, on what, where, and within which limits.
    """
    run = RunFolder.of_this_run()
    async with sole_owner(run):
        try:
            await outcome.announce(JobState.INITIALIZING)
            offer = await place(job)
            instance = await provision(job, offer, run.instance_name)
            await install(job, instance)
            status = await stream(job, instance)
            if status["state"] != JobState.COMPLETED:
                return await outcome.of_unfinished(job, status)
            artifact = await download(job, instance)
            report = await verify(job, artifact)
            await teardown(instance)
        except OrchestratorError as error:
            return outcome.of_error(error)
    return await outcome.of_completed(report)
