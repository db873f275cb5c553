"""Give the machine back."""

from __future__ import annotations

import time
from typing import Any

from prefect import Flow, get_run_logger
from prefect.client.schemas.objects import FlowRun, State

from blocks.home import instances
from blocks.models import Instance
from blocks.registry import load_provider
from flows.run_folder import RunFolder
from flows.tasks.step import step
from trainer.job_directory import Desired, JobDirectory


@step
async def teardown(instance: dict[str, Any]) -> None:
    """Terminate the instance. Call it only when the artifact is verified at home.

    A paused, stopped or failed job keeps its job directory on this computer: it holds the
    checkpoints from which `trainctl resume` goes on.
    """
    where = Instance.from_dict(instance)
    await load_provider(where.provider).terminate(where.id)
    get_run_logger().info("gave back %s", where.id)


def stop_training_of_dead_flow(
    flow: Flow[..., Any],
    flow_run: FlowRun,
    state: State[Any],
) -> None:
    """Stop a training whose flow process was killed before it could, on this computer.

    Prefect kills a cancelled flow about 30 s after it asked, and then calls this in another
    process. The wish is in the job directory already as a rule; this makes sure of it.
    """
    directory = JobDirectory(instances() / RunFolder(flow_run.id).instance_name)
    if not directory.is_alive():
        return
    limits = (directory.read_control().grace_seconds, 10.0)
    directory.request(Desired.STOP, grace_seconds=limits[0], reason="cancelled")
    deadline = time.monotonic() + sum(limits)
    while directory.is_alive() and time.monotonic() < deadline:
        time.sleep(0.2)  # a hook of Prefect's is no coroutine, and a lock rings no bell
