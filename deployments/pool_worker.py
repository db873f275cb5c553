"""One worker of one pool, which ends with its supervisor: `python -P -m deployments.pool_worker …`.

Flow processes that it started outlive it, and run to their own end. Nothing is imported from the
folder where a worker or a flow runs: a `json.py` there must not break jobs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.workers.process import ProcessWorker

from blocks.home import runs
from blocks.providers.local import Local
from deployments.flow_process import SafeConfiguration, die_with, lacking, refuse
from deployments.pools import CLOUD_POOL
from flows.locks import is_held
from trainer.contract.garbage import search_seldom
from trainer.contract.job_directory import JobDirectory

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import WorkerFlowRunResponse

POLL_SECONDS = 0.1
# For runs that are just being started when we are asked to end; less than the supervisor waits.
ENDING_SECONDS = 10.0


with warnings.catch_warnings():
    # Prefect warns that this class has the type "process" of its own worker. That is intended: it
    # serves the pools that Prefect's would.
    warnings.simplefilter("ignore", UserWarning)

    class PoolWorker(ProcessWorker):
        """Prefect's worker, but it counts what else trains here, and ends without ending flows."""

        job_configuration = SafeConfiguration
        is_ending = False

        def __init__(self, pool: str, limit: int | None) -> None:
            """Serve a pool.

            Args:
                pool: its name; it must exist.
                limit: how many jobs may train on this computer at once; None for any number.
            """
            settings = get_current_settings().worker
            super().__init__(
                work_pool_name=pool,
                name=socket.gethostname(),
                limit=limit,
                prefetch_seconds=settings.prefetch_seconds,
                heartbeat_interval_seconds=int(settings.heartbeat_seconds),
                # A pool that this made would lack the queues and the description of `deploy`.
                create_pool_if_not_found=False,
            )
            self._mine: set[UUID] = set()

        async def run(self, flow_run: FlowRun, *args: Any, **kwargs: Any) -> Any:
            """Execute a run in a process of its own, to its end."""
            self._mine.add(flow_run.id)
            try:
                return await super().run(flow_run, *args, **kwargs)
            finally:
                self._mine.discard(flow_run.id)

        async def _submit_scheduled_flow_runs(
            self, flow_run_response: list[WorkerFlowRunResponse]
        ) -> list[FlowRun]:
            """Start what is due, while there is room."""
            begun = (
                self._submitting_flow_run_ids
            )  # still offered, until Prefect shows them as begun
            due = [each for each in flow_run_response if each.flow_run.id not in begun]
            if self._limit is not None and self._work_pool_name != CLOUD_POOL:
                # Jobs of the cloud pool take no GPU of ours.
                due = await self._fitting(due, self._limit)
            due = [each for each in due if not await self._refused(each.flow_run)]
            # Asked last: nothing is awaited from here until the runs are taken.
            if self.is_ending or not due:
                return []
            return await super()._submit_scheduled_flow_runs(due)

        async def _refused(self, flow_run: FlowRun) -> bool:
            """Fail a run that lacks what its deployment's form requires, and say so there."""
            if flow_run.deployment_id is None:
                return False
            try:
                deployment = await self.client.read_deployment(flow_run.deployment_id)
            except ObjectNotFound:
                return False  # Prefect's own way with such a run is taken
            required = (deployment.parameter_openapi_schema or {}).get("required", [])
            reason = lacking(flow_run, required)
            if reason:
                await refuse(self.client, flow_run, reason)
            return bool(reason)

        async def _fitting(
            self, due: list[WorkerFlowRunResponse], limit: int
        ) -> list[WorkerFlowRunResponse]:
            """Leave room for the jobs here that others started, such as the worker before us."""
            # A run that is being started holds one of our places, but not yet its lock.
            others = await others_at_work(self._mine | self._submitting_flow_run_ids)
            busy = int(self.limiter.borrowed_tokens)
            chosen = fitting([each.flow_run.id for each in due], others, limit - busy)
            # Of these tokens our own runs have borrowed theirs. Never 0, which older versions of
            # anyio's limiter refuse.
            self.limiter.total_tokens = max(busy + len(chosen), 1)
            return [each for each in due if each.flow_run.id in chosen]

        async def end(self) -> None:
            """End this process once no run is between being taken and being started.

            Prefect's own way would kill the flow processes. Ours go on.
            """
            # Set before the first await: no further run is taken from here on.
            self.is_ending = True
            loop = asyncio.get_running_loop()
            deadline = loop.time() + ENDING_SECONDS
            while self._submitting_flow_run_ids and loop.time() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(POLL_SECONDS)
            # Without unwinding: leaving the worker's context would end the flow processes. Nothing
            # flushes the streams then, either.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


async def others_at_work(mine: set[UUID]) -> set[UUID]:
    """Return the jobs besides `mine` whose flow or whose training is alive on this computer."""
    # A job directory alone proves nothing: it stays after the job. Its lock is held by a process,
    # and outlives the flow: a training goes on without it, on the same GPU.
    found = set()
    for instance in await Local().instances():
        mark = instance.mark
        if mark is None or mark.run_id is None or mark.run_id in mine:
            continue
        # In this order: whoever looks at the lock of a job directory may disturb who takes it, and
        # without a flow nobody does.
        flow = runs() / str(mark.run_id) / ".lock"
        if is_held(flow) or JobDirectory(instance.workspace).is_alive():
            found.add(mark.run_id)
    return found


def fitting(due: Sequence[UUID], others: set[UUID], free: int) -> set[UUID]:
    """Return which runs are started now.

    Args:
        due: in the order in which they are to start.
        others: the jobs that others started and that train here.
        free: how many places our own runs leave.
    """
    # A run whose training lives only attaches to it, and has its place already.
    attaching = {id for id in due if id in others}
    room = max(free - len(others), 0)
    return attaching | set([id for id in due if id not in attaching][:room])


async def serve(pool: str, limit: int | None) -> None:
    """Serve a pool until SIGTERM or SIGINT."""
    worker = PoolWorker(pool, limit)
    ending: list[asyncio.Task[None]] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        # Kept in a list: the loop holds only weak references to tasks, and `end` must not be
        # garbage-collected halfway.
        asyncio.get_running_loop().add_signal_handler(
            number, lambda: ending.append(asyncio.create_task(worker.end()))
        )
    await worker.start()


if __name__ == "__main__":
    search_seldom()
    name, most, supervisor = sys.argv[1:]
    die_with(int(supervisor))
    asyncio.run(serve(name, int(most) or None))
