"""A worker of Prefect, of the type `training`, that executes many flow runs in one process.

A run waits in Prefect, as a Scheduled one, and holds nothing; the pool's queue says when it starts.
Then it is executed in the event loop of this process, and its training in a supervised process of its
own, which outlives this one. However this one ends, its runs stay as they are: the next worker of the
pool on this computer finds them without a process, and attaches to their trainings.

What is not ours, or has an environment of its own, gets a process of its own as from Prefect's worker.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.exceptions import ObjectNotFound, Pause
from prefect.logging.handlers import APILogWorker
from prefect.settings import (
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_WORKER_ENABLE_CANCELLATION,
    PREFECT_WORKER_QUERY_SECONDS,
    get_current_settings,
    temporary_settings,
)
from prefect.types._datetime import now
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker

from blocks.allotted import allotted
from deployments import left_runs
from deployments.beginnings import Beginnings
from deployments.beside_main import beside_main_thread
from deployments.claims import Claims
from deployments.flow_process import SafeConfiguration, lacking, refuse
from deployments.gpu_table import GpuTable
from deployments.hearing import hear
from deployments.left_runs import lock_of
from deployments.pools import CLOUD_POOL, POOL_TYPE
from deployments.run_places import RunPlaces
from deployments.this_machine import Given, no_machine, this_machine
from flows.batches.watch import BatchWatch
from flows.job_events.waiting import keep_telling
from flows.locks import taken
from flows.prefect_api import UNANSWERED, asking_once, make_patient, prefect_client
from flows.scheduling.labels import allotment
from flows.scheduling.pool import PauseJob, PoolMachine, StartJob
from flows.scheduling.pool_queue import PoolQueue
from flows.scheduling.seen import wishes_of
from flows.wanted import ring
from trainer.contract.gpu_locks import Allocation

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun
    from prefect.flows import Flow

TURN_SECONDS = 0.05  # what Prefect's loop waits between two turns; ours wait by themselves
LEFT_SECONDS = 10.0  # between two searches for runs that a worker left
FULL_SECONDS = 3.0  # between two looks at the queue while no more may begin
ENDING_SECONDS = 10.0  # less than `deployments.worker` waits
PAGE = 200


class TrainingWorker(ProcessWorker):
    """Executes the runs of a pool, as its queue decides."""

    type = POOL_TYPE
    job_configuration = SafeConfiguration

    _display_name = "Training"
    _description = (
        "Executes many trainings in one process: a queue with priorities and fair shares, "
        "each training supervised and in a process of its own."
    )
    _documentation_url = ""
    _logo_url = ""

    def __init__(
        self, work_pool_name: str, *, limit: int | None = None, name: str | None = None, **more: Any
    ) -> None:
        """Serve a pool.

        Args:
            work_pool_name: the pool.
            limit: how many jobs may train on this computer at once; None for any number.
            name: of the worker; None: the computer's.
            more: as `BaseWorker` has it.
        """
        super().__init__(work_pool_name, name=name or socket.gethostname(), **more)
        self._most = limit
        self._at_work: dict[UUID, asyncio.Task[None]] = {}
        self._beginnings = Beginnings()
        self._gpus_apart: dict[UUID, Sequence[str]] = {}
        self._vram: dict[str, float] = {}
        self._turn = asyncio.Event()
        self._turn.set()
        self._helpers: list[asyncio.Task[None]] = []
        self._context = contextvars.copy_context()
        self._leads = False
        self._searched = self._decided = self._rests_until = 0.0
        self._is_ending = False
        self._silent = False

    async def start(
        self,
        run_once: bool = False,  # noqa: FBT001, FBT002 - Prefect's own
        with_healthcheck: bool = False,  # noqa: FBT001, FBT002
        printer: Callable[..., None] = print,
    ) -> None:
        """Serve until SIGTERM or SIGINT; see `BaseWorker.start`."""

        async def serve() -> None:
            await ProcessWorker.start(self, run_once, with_healthcheck, printer)

        # Cancellation: of what waits in this process, or has one of its own. Ours look by themselves.
        ours: dict[Any, Any] = {
            PREFECT_WORKER_ENABLE_CANCELLATION: True,
            PREFECT_WORKER_QUERY_SECONDS: TURN_SECONDS,
        }
        if "heartbeat_frequency" not in get_current_settings().flows.model_fields_set:
            # It takes a thread for each run, which wakes every second; ours are found without.
            ours[PREFECT_FLOWS_HEARTBEAT_FREQUENCY] = None
        with temporary_settings(ours):
            if run_once or threading.current_thread() is not threading.main_thread():
                await serve()
            else:
                await beside_main_thread(serve, self.end, ENDING_SECONDS)

    async def setup(self) -> None:
        """Connect to Prefect, and from then on wait for it however long it is away."""
        await super().setup()
        make_patient(self.client)
        # What is executed begins with this context, and not with whatever was set for a turn.
        self._context = contextvars.copy_context()
        self._places = RunPlaces(self.client)
        self._queue = PoolQueue(
            self.client,
            self._work_pool_name,
            self._look,
            limit=self._most,
            held=BatchWatch(self.client).held,
        )
        self._claims = Claims(self.client, self._begin, self._queue.left)
        self._helpers.append(asyncio.create_task(hear(self._turn.set, ring)))
        self._helpers.append(asyncio.create_task(keep_telling()))
        if self._work_pool_name != CLOUD_POOL:
            self._helpers.append(asyncio.create_task(GpuTable(self.client).keep()))

    async def _look(self, given: Given) -> PoolMachine:
        """Return this computer as it is now."""
        if self._work_pool_name == CLOUD_POOL:
            return await no_machine(given)
        machine = await this_machine(given, limit=self._most)
        self._vram = {gpu.uuid: gpu.vram_gb for gpu in machine.gpus}
        return machine

    def _allocation(self, run: FlowRun, gpus: Sequence[str]) -> Allocation:
        """Return what a run has of its GPUs: all of them, or a share where the pool allows that."""
        settings, wishes = self._queue.settings, wishes_of(run.parameters.get("job"))
        if not settings.share_gpus or len(gpus) != 1 or not wishes.vram_gb:
            return Allocation(uuids=tuple(gpus))
        most = self._vram.get(gpus[0], wishes.vram_gb)
        return Allocation(
            uuids=tuple(gpus),
            share_gb=wishes.vram_gb,
            vram_gb=max(wishes.vram_gb, min(most, settings.max_vram_per_gpu or most)),
        )

    async def teardown(self, *exc_info: Any) -> None:
        """Let the runs that were begun come to their rest, then disconnect."""
        for helper in self._helpers:
            helper.cancel()
        if at_work := {*self._helpers, *self._at_work.values()}:
            await asyncio.wait(at_work)
        await super().teardown(*exc_info)

    async def end(self) -> None:
        """Take nothing more, and have what is logged arrive. The process may be left then."""
        self._is_ending = True
        while self._submitting_flow_run_ids:  # noqa: ASYNC110 - Prefect has no event for it
            await asyncio.sleep(TURN_SECONDS)
        await asyncio.to_thread(APILogWorker.drain_all, ENDING_SECONDS / 2)

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Wait for the next turn and take it: start, pause and take over what is to be.

        No trouble with Prefect's API leaves here: Prefect's loop would end the worker by it.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._queue.settings.check_interval):
                await self._turn.wait()
        # Where Prefect is slow to answer, half of its time is for the runs.
        await asyncio.sleep(self._rests_until - time.monotonic())
        self._turn.clear()
        self._last_polled_time = now("UTC")
        if self._is_ending or not self._has_successfully_synced or not await self._decides():
            return []
        try:
            with asking_once(), self._resting_afterwards():
                begun = [*await self._taken_over(), *await self._started()]
        except UNANSWERED as error:
            if not self._silent:  # said while it is news
                self._logger.warning("the queue cannot be read: %s", error)
            self._silent = True
            return []
        except Exception:
            self._logger.exception("this turn of the queue broke off")
            return []
        self._silent = False
        return begun

    @contextmanager
    def _resting_afterwards(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        ended = time.monotonic()
        self._rests_until = ended + min(ended - began, self._queue.settings.check_interval)

    async def _decides(self) -> bool:
        """Whether this worker decides for its pool on this computer; another one may."""
        if not self._leads:
            # Never given up: it is free when this process is gone.
            self._leads = await taken(lock_of(self._work_pool_name), wait=False) is not None
            if not self._leads and not self._silent:
                self._silent = True
                self._logger.warning(
                    "another worker serves pool %s on this computer; standing by for its end",
                    self._work_pool_name,
                )
        return self._leads

    async def _started(self) -> list[FlowRun]:
        """Do what the queue decides, and return the runs that were started."""
        # What was to get a process of its own and got none: Prefect did not give it to us.
        for id in self._gpus_apart.keys() - self._submitting_flow_run_ids:
            del self._gpus_apart[id]
            self._queue.left(str(id))
        begun = await self._claims.settle()
        if self._beginnings.is_full:
            self._beginnings.once_few(self._turn.set)
            if time.monotonic() - self._decided < FULL_SECONDS:
                return begun
        decisions = await self._queue.decide()
        self._decided = time.monotonic()
        for pause in decisions:
            if isinstance(pause, PauseJob):
                await self._pause(UUID(pause.job), pause.whom)
        host = socket.gethostname()
        starts = {
            UUID(one.job): one
            for one in decisions
            if isinstance(one, StartJob) and one.machine == host
        }
        for id in self._mine():
            starts.pop(id, None)
        runs = await self._read(self._beginnings.few(list(starts), self._turn.set))
        taken = await asyncio.gather(
            *(self._take(run, starts[run.id]) for run in runs), return_exceptions=True
        )
        # Only when all have come to their end: what went on beside the next turn would be taken twice.
        if trouble := next((one for one in taken if isinstance(one, BaseException)), None):
            raise trouble
        await self._queue.tell(decisions)
        return begun + [run for run, is_ours in zip(runs, taken, strict=True) if is_ours is True]

    def _mine(self) -> set[UUID]:
        """Return the runs that this process executes, or is about to."""
        return self._at_work.keys() | self._submitting_flow_run_ids | self._claims.unsure.keys()

    async def _read(self, ids: Sequence[UUID]) -> list[FlowRun]:
        """Return runs by their ids, in that order; those that are gone are left out."""
        found: dict[UUID, FlowRun] = {}
        for start in range(0, len(ids), PAGE):
            only = FlowRunFilter(id=FlowRunFilterId(any_=list(ids[start : start + PAGE])))
            runs = await self.client.read_flow_runs(flow_run_filter=only, limit=PAGE)
            found |= {run.id: run for run in runs}
        return [found[id] for id in ids if id in found]

    async def _take(self, run: FlowRun, start: StartJob) -> bool:
        """Start a run that waits, unless it is another's by now; return whether it is started."""
        place = await self._places.of(run, self.work_pool)
        if reason := lacking(run, place.required):
            await refuse(self.client, run, reason)
        if reason or self._is_ending:
            return False
        await self._queue.take(start)
        if place.flow is None:
            await self._apart(run, start.gpus)
            return True
        return await self._claims.take(run, place.flow, start.gpus)

    async def _apart(self, run: FlowRun, gpus: Sequence[str]) -> None:
        """Have a run executed in a process of its own, by Prefect's own means."""
        assert run.work_queue_id  # noqa: S101 - it came from a pool
        self._gpus_apart[run.id] = gpus
        due = WorkerFlowRunResponse(
            work_pool_id=self.work_pool.id, work_queue_id=run.work_queue_id, flow_run=run
        )
        # Never in `asking_once`: the task that Prefect starts here may wait for its API.
        await self._context.copy().run(asyncio.create_task, self._submit_scheduled_flow_runs([due]))

    async def run(
        self, flow_run: FlowRun, configuration: ProcessJobConfiguration, *more: Any, **named: Any
    ) -> Any:
        """Execute a run in a process of its own, to its end."""
        try:
            if gpus := self._gpus_apart.pop(flow_run.id, ()):
                configuration.env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
            return await super().run(flow_run, configuration, *more, **named)
        finally:
            self._queue.left(str(flow_run.id))
            self._turn.set()

    def _begin(self, run: FlowRun, flow: Flow[..., Any], gpus: Sequence[str]) -> None:
        self._beginnings.note(run.id)
        context = self._context.copy()
        if gpus:
            context.run(allotted.set, self._allocation(run, gpus))
        self._at_work[run.id] = asyncio.create_task(
            self._executed(run, flow), name=f"run {run.id}", context=context
        )

    async def _executed(self, run: FlowRun, flow: Flow[..., Any]) -> None:
        """Execute a run to its rest; no trouble of one reaches another."""
        from flows.execute import execute, execute_other
        from flows.train import train

        try:
            if flow is train:
                await execute(run.id, asked=False)
            else:
                await execute_other(run.id, flow)
        except Pause:
            await self._queue_again(run.id)
        except Exception as error:  # noqa: BLE001 - the outer edge of a run
            self.get_flow_run_logger(run).error("the run broke off", exc_info=error)
        finally:
            self._at_work.pop(run.id, None)
            self._beginnings.forget(run.id)
            self._queue.left(str(run.id))
            self._turn.set()

    async def _pause(self, id: UUID, whom: str) -> None:
        from flows.scheduling.preempting import preempt

        if await preempt(self.client, id, whom):
            ring(id)

    async def _queue_again(self, id: UUID) -> None:
        """Queue a run again that has paused for another job."""
        from flows.scheduling.preempting import queue_again

        with suppress(ObjectNotFound):
            async with prefect_client() as client:
                await queue_again(client, await client.read_flow_run(id))

    async def _taken_over(self) -> list[FlowRun]:
        """Take over what a worker left, now and then, and return the runs that were begun."""
        if time.monotonic() - self._searched < LEFT_SECONDS and self._searched:
            return []
        if not self._searched:  # what paused for another since its worker ended
            for run in await left_runs.left_paused(self.client, self._work_pool_name):
                await self._queue_again(run.id)
        left = await left_runs.left_at_work(self.client, self._work_pool_name, self._mine())
        few = self._beginnings.few(left, self._turn.set)
        begun = [run for run in few if await self._take_over(run)]
        # Where some are left, the next turn goes on with them.
        self._searched = time.monotonic() - LEFT_SECONDS * (len(few) < len(left))
        return begun

    async def _take_over(self, run: FlowRun) -> bool:
        from flows.reconcile import of_run_alone
        from flows.train import train

        place = await self._places.of(run, self.work_pool)
        assert run.state  # noqa: S101 - it is at work
        if place.flow is None:
            return False  # its process may be alive, or about to be: reconcile sees to it
        if place.flow is not train:
            await left_runs.give_up(self.client, run)
            return False
        if run.state.type is StateType.CANCELLING:
            await of_run_alone(self.client, run.id, [], False)  # noqa: FBT003
            return False
        had = allotment(run.labels)
        self._begin(run, place.flow, had.gpus if had else ())
        return True
