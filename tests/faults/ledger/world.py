"""What a walk is taken in: an account, Prefect's table of runs, and processes of ours that hire.

A run is the part of the training's flow that has to do with money: it adopts or hires, renews the
lease and watches the provider while it trains, meters its cap, hears a cancellation, gives back or
keeps. All of that is the product's own code; training itself is to wait.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import asynccontextmanager
from contextvars import Context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, Running

from blocks.marks import read_mark
from blocks.models import Instance
from blocks.registry import load_provider
from blocks.task_scope import TaskScope
from flows.reconcile import reconcile_once
from flows.renting.budget import Budget
from flows.renting.giving_back import give_back
from flows.renting.hire import Hire
from flows.renting.hiring import Hiring
from flows.renting.journal import Journal
from flows.renting.keeping import keep
from flows.renting.lease import renewed
from flows.renting.liveness import Contact, watch_provider
from flows.renting.other_gpus import move_on
from flows.renting.turns import in_turn
from flows.run_folder import RunFolder, run_folders
from flows.settling import settle_run
from flows.shown import is_over
from flows.sole_owner import own
from tests.clouds.cloud import Cloud
from tests.clouds.rented import Rented
from tests.faults.ledger.clock import WHO, FastLoop, Ours
from tests.faults.ledger.place import BareMachine, end_itself
from tests.faults.ledger.wire import Line
from tests.faults.walks.accounts import ACCOUNTS
from tests.flows.flow_runs import make_job
from trainer.config import TrainingJob
from trainer.contract.errors import (
    BudgetExceeded,
    ConnectionLost,
    MachineLost,
    OrchestratorError,
)

TRAIN_LOOK = 5.0
SEEN_SECONDS = 30.0
"""From when a machine has ended until whoever looks after it must have seen that."""
FIRST_LEASE = 900.0
"""Seconds from the order for which a machine waits to be reached: a boot and a lease of the jobs."""
LIMITS = {"lease_minutes": 5, "stop_grace_seconds": 30, "boot_timeout_minutes": 10}
KEY = "0123456789abcdef0123456789abcdef"
"""Of every account: the clients that have it are made once."""


class CancelHeard(Exception):
    """Somebody cancelled the run."""


class Watched(Cloud):
    """An account whose machines end themselves when their lease runs out; mixed into a local cloud."""

    loop: FastLoop
    attended: dict[str, bool]
    """Whether the process that worked on its run when a machine ended lived on to see that."""
    works_on: Callable[[str], Ours | None]
    is_open: Callable[[str], bool]
    """Whether a machine, by its id, is still charged to a run."""

    def rent(self, rented: Rented) -> Rented:
        rented.created = self.loop.time()
        rented.facts["lease"] = self.loop.time() + FIRST_LEASE
        found = super().rent(rented)
        self.loop.create_task(end_itself(self, rented, lambda: self.shut_down(rented)))
        return found

    def _end(self, rented: Rented) -> None:
        super()._end(rented)
        who = self.works_on(rented.name)

        def note() -> None:
            # One that was cancelled amid giving it back leaves it to reconcile.
            saw = who is not None and (
                not self.is_open(rented.id) if who.is_over else not who.is_dead
            )
            self.attended.setdefault(rented.id, saw)

        self.loop.call_later(SEEN_SECONDS, note, context=Context())

    async def shut_down(self, rented: Rented) -> None:
        """Do what a shutdown from within comes to at this provider."""
        if self.name in {"runpod", "vast"}:  # by a call that the machine makes itself
            if self.name == "vast":
                rented.facts["gone_at"] = self.loop.time()
            self.kill_machine(rented.id)
        elif self.name == "sagemaker":
            await self.end(rented, "Completed")
        else:
            await self.power_off(rented)

    async def _first_boot(self, rented: Rented) -> None:
        """Run no script: the lease is ours."""

    def _start_up(self, rented: Rented) -> None:
        """Run no script either."""

    def _downloaded(self, rented: Rented) -> Path:
        """Take it that the agent is there."""
        return self.folder / rented.id


def all_hires() -> list[Hire]:
    """Return what all runs of the walk have hired."""
    return [hire for one in run_folders() for hire in Journal.of(RunFolder(one.name)).hires]


def open_hires() -> list[Hire]:
    """Return what of it may still cost money."""
    return [hire for hire in all_hires() if hire.is_open]


class Table:
    """Prefect, as far as it is asked: one state for each run, of any age."""

    def __init__(self) -> None:
        self.runs: dict[UUID, FlowRun] = {}

    async def read_flow_run(self, run_id: UUID) -> FlowRun:
        await asyncio.sleep(0.01)
        if run_id not in self.runs:
            raise ObjectNotFound(Exception("no such run"))
        return self.runs[run_id].model_copy()

    async def set_flow_run_state(self, run_id: UUID, state: State[Any], **_: Any) -> Any:
        await asyncio.sleep(0.01)
        self.put(run_id, state)
        return SimpleNamespace(state=self.runs[run_id].state)

    async def read_flow_run_states(self, run_id: UUID) -> list[State[Any]]:
        state = self.runs[run_id].state
        return [state] if state else []

    async def read_block_documents_by_type(self, slug: str) -> list[Any]:
        del slug
        return []

    def put(self, run_id: UUID, state: State[Any]) -> None:
        now = self.runs[run_id]
        self.runs[run_id] = now.model_copy(update={"state": state})


class World:
    """One walk's."""

    def __init__(self, loop: FastLoop, provider: str, folder: Path) -> None:
        self.loop, self.provider = loop, provider
        facts = {
            "loop": loop,
            "attended": {},
            "works_on": staticmethod(self._works_on),
            "is_open": staticmethod(lambda id: id in {hire.instance_id for hire in open_hires()}),
        }
        kind = type("LedgerCloud", (Watched, ACCOUNTS[provider].server), facts)
        self.cloud: Any = kind(folder / "cloud")
        self.cloud.folder.mkdir(parents=True)
        self.cloud.key = KEY if provider != "sagemaker" else self.cloud.key
        self.cloud.sshd_never, self.cloud.boot_seconds = True, 40.0
        self.cloud.contract.check = lambda *_: None
        if provider == "aws":
            self.cloud._check = lambda *_: None
        if provider == "azure":
            self.cloud.entra._server = SimpleNamespace(port=9)
        self.line = Line(loop, self.cloud)
        self.table = Table()
        self.mailboxes: dict[str, tuple[bytes, float]] = {}
        self.finishing: set[UUID] = set()
        self.processes: list[Ours] = []
        self.working: dict[UUID | None, Ours | None] = {}
        """The process that has a run to itself, or had it last."""
        self.variables = {
            **self.cloud.environ(),
            "TRAINING_ORCHESTRATOR_HOME": str(folder / "home"),
        }
        if provider == "gcp":
            self.cloud.key_file.parent.mkdir(parents=True, exist_ok=True)
            self.cloud.key_file.write_text("{}")
        os.environ.update(self.variables)

    def close(self) -> None:
        for who in self.processes:
            self.loop.kill(who)
        self.cloud._server._socket.close()
        for name in self.variables:
            os.environ.pop(name, None)

    # What people do.

    def submit(self, *, keep_minutes: float, cap: float | None) -> UUID:
        limits = {**LIMITS, "max_cost": cap}
        given = {**make_job().model_dump(), "provider": self.provider, "limits": limits}
        job = TrainingJob.model_validate({**given, "keep_minutes": keep_minutes})
        id = uuid4()
        run = FlowRun(
            id=id, flow_id=uuid4(), name=job.name, parameters={"job": job.model_dump(mode="json")}
        )
        self.table.runs[id] = run
        self.table.put(id, self._dated(Running()))
        RunFolder(id)
        return id

    def start(self, work: Any) -> Ours:
        who = self.loop.begin(work)
        self.processes.append(who)
        return who

    def execute(self, id: UUID) -> Ours:
        return self.start(self._executed(id))

    def _works_on(self, name: str) -> Ours | None:
        """Return the process that works on the run whose mark a machine bears."""
        mark = read_mark(name)
        return self.working.get(mark.run_id) if mark else None

    def cancel(self, id: UUID) -> None:
        if not is_over(self.table.runs[id]):
            self.table.put(id, self._dated(Cancelling()))

    def reconcile(self) -> Ours:
        return self.start(self._reconciled())

    def crash(self, id: UUID) -> None:
        """Note that a run's process died, as a worker does."""
        state = self.table.runs[id].state
        if state and state.is_running():
            self.table.put(id, self._dated(Crashed()))

    async def _reconciled(self) -> None:
        await reconcile_once()

    def _dated(self, state: State[Any]) -> State[Any]:
        from datetime import UTC, datetime

        return state.model_copy(update={"timestamp": datetime.fromtimestamp(self.loop.time(), UTC)})

    # What a process of ours does.

    async def _executed(self, id: UUID) -> None:
        run = RunFolder(id)
        await own(run)
        self.working[id] = WHO.get()
        found = self.table.runs[id]
        if is_over(found):
            return
        job = TrainingJob.model_validate(found.parameters["job"])
        if not (found.state and found.state.is_cancelling()):
            self.table.put(id, self._dated(Running()))
        end: State[Any]
        try:
            async with TaskScope() as scope:
                await scope.result_of(self._heard(id, self._to_its_end(job, run)))
            end = Completed()
        except CancelHeard:
            await settle_run(job, run, "cancelled", hurry=True)
            end = Cancelled()
        except OrchestratorError as error:
            await settle_run(job, run, f"{type(error).__name__}: {error.message}")
            end = Failed(message=error.message)
        if not is_over(self.table.runs[id]):
            self.table.put(id, self._dated(end))

    async def _heard(self, id: UUID, work: Any) -> None:
        """Do something until it is done or cancelled."""

        async def asked() -> None:
            while not cast("State[Any]", self.table.runs[id].state).is_cancelling():
                await asyncio.sleep(TRAIN_LOOK)

        tasks = [asyncio.ensure_future(work), asyncio.ensure_future(asked())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                if not task.done():
                    task.cancel()
            await asyncio.wait(tasks)
        if tasks[1].done() and not tasks[1].cancelled():
            if not tasks[0].cancelled() and tasks[0].exception() is None:
                return
            raise CancelHeard
        tasks[0].result()

    async def _to_its_end(self, job: TrainingJob, run: RunFolder) -> None:
        while True:
            machine = await self._machine(job, run)
            try:
                await self._trained(job, run, machine)
            except MachineLost as error:
                await move_on(job, run, machine, error)
            else:
                break
        journal = Journal.of(run)
        hire = journal.of_instance(machine)
        if hire and hire.is_open and not await keep(job, journal, hire, machine):
            await give_back(journal, hire, "completed")

    async def _machine(self, job: TrainingJob, run: RunFolder) -> Instance:
        journal = Journal.of(run)
        hiring = Hiring(job, run, journal, Budget(job, journal))
        if any(hire.is_open for hire in journal.hires) and (found := await in_turn(hiring.adopted)):
            return found[0]
        return (await hiring.machines())[0]

    async def _trained(self, job: TrainingJob, run: RunFolder, machine: Instance) -> None:
        provider, journal = await load_provider(machine.provider), Journal.of(run)
        contact = Contact(job, provider, machine)

        async def to_its_rest() -> None:
            while UUID(run.run_id) not in self.finishing:
                await asyncio.sleep(TRAIN_LOOK)
                if Budget(job, journal).left() <= 0:
                    raise BudgetExceeded("limits.max_cost reached.")
                try:
                    await provider.workplace(machine).greet()
                    contact.made()
                except ConnectionLost as error:
                    await contact.lost(error)

        async with renewed(job, run, [machine]), TaskScope() as scope:
            scope.start(watch_provider(job, provider, machine, journal))
            await scope.result_of(to_its_rest())


class Surroundings:
    """What stands in for the rest of the product; `world` is the walk under way."""

    world: World

    def __init__(self, loop: FastLoop) -> None:
        self.loop = loop

    @asynccontextmanager
    async def client(self, *_: Any, **__: Any) -> Any:
        yield self.world.table

    @property
    def workplace_of(self) -> Any:
        """The method of providers that returns a place."""

        def workplace(provider: Any, instance: Instance, *, compress: bool = False) -> Any:
            del provider, compress
            return BareMachine(self.world.cloud, instance)

        return workplace

    def who(self) -> str:
        """Return which process of ours runs."""
        who = WHO.get()
        return f"[{who.number}]" if who else "[-]"

    async def revived(self, run: FlowRun) -> None:
        self.world.execute(run.id)
