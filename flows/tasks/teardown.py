"""Give the machines back."""

from __future__ import annotations

from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State

from blocks.models import Instance
from blocks.registry import load_provider
from blocks.task_scope import all_of
from flows import milestones
from flows.last_word import speak_last
from flows.locks import locked
from flows.renting.giving_back import give_back
from flows.renting.journal import Journal
from flows.renting.keeping import keep
from flows.run_folder import RunFolder
from flows.saved import saved
from flows.settling import settle_run
from flows.sole_owner import disown
from flows.tasks.step import step
from trainer.config import TrainingJob


@step
async def teardown(job: TrainingJob, machines: list[dict[str, Any]], state: str) -> None:
    """Terminate the instances, or keep one for the next job when the job asks for it.

    Call it only when what the machines hold is verified at home. This computer keeps the job
    directory of a job that did not complete: it holds the checkpoints to resume from.
    """
    instances = [Instance.from_dict(machine) for machine in machines]
    provider = await load_provider(instances[0].provider)
    if provider.is_home and state != "completed":
        return
    journal = Journal.of(RunFolder.of_this_run())

    async def end(where: Instance) -> None:
        hire = journal.of_instance(where)
        if hire is None or not hire.is_open:
            return  # this step ran before, in a process that died afterwards
        if state == "completed" and await keep(job, journal, hire, where):
            return
        await give_back(journal, hire, state)

    await all_of(end(where) for where in instances)


async def stop_training_of_dead_flow(
    flow: Flow[..., Any],
    flow_run: FlowRun,
    state: State[Any],
) -> None:
    """Stop a training whose flow process was killed before it could, and give its machine back.

    Prefect kills a cancelled flow about 30 s after asking it to end, and then calls this in another
    process. Usually the job directory holds the request to stop already; this makes sure of it.
    What is left undone here is done by the next reconcile.
    """
    job = TrainingJob.model_validate(flow_run.parameters["job"])
    run = RunFolder(flow_run.id)
    # Prefect may call this in the flow's own process, whose flow is over by then.
    disown(run)
    # The hook runs also when the flow ended in time, and must not get in its way.
    async with locked(run.lock):
        await settle_run(job, run, "cancelled")
    message = f"cancelled; {saved(run)}"
    milestones.stopped(run, message)
    speak_last(flow_run.id, message)
