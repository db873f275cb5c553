"""Follow a job until it is at rest, from its mirror on this computer or from Prefect alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

from flows.run_folder import RunFolder
from flows.shown import job_state
from flows.streaming.metrics_tail import MetricsTail
from gateway import jobs
from gateway.cli.live import Display
from gateway.exits import ApiUnreachable
from gateway.prefect.client import JobRun, LightClient
from trainer.contract.metrics import Record

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60.0  # for an API that does not answer

Steps = Callable[[], dict[int, Record]]


def mirrored(run_id: UUID) -> Steps:
    """Return a reader of the metrics that this computer's mirror of the run holds."""
    tail = MetricsTail(RunFolder(run_id).metrics)

    def read() -> dict[int, Record]:
        tail.read_new()
        return tail.steps

    return read


def published(client: LightClient, run_id: UUID) -> Steps:
    """Return a reader of the metrics that Prefect holds; it works from anywhere."""

    def read() -> dict[int, Record]:
        return (jobs.metrics(client, [run_id])).get(run_id, {})

    return read


def show(client: LightClient, run_id: UUID, steps: Steps, screen: Display) -> JobRun:
    """Show the job once and return its run."""
    run = client.read_flow_run(run_id)
    screen.show(jobs.view(run, steps()))
    return run


def until_rest(client: LightClient, run_id: UUID, steps: Steps, screen: Display) -> JobRun:
    """Show the job until it is at rest and return its run.

    Raises:
        ApiUnreachable: the API did not answer for a minute.
    """
    answered = time.monotonic()
    while True:
        try:
            run = show(client, run_id, steps, screen)
            answered = time.monotonic()
            if job_state(run).at_rest:
                # The last metrics are published just before the state is set.
                return show(client, run_id, steps, screen)
        except ApiUnreachable:
            # A server that restarts, or a laptop that wakes up, must not end the view of a job
            # that trains.
            if time.monotonic() - answered > PATIENCE_SECONDS:
                raise
        time.sleep(POLL_SECONDS)
