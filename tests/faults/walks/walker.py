"""Processes of ours that can be killed at any moment, forked from one that has imported everything.

    python -m tests.faults.walks.walker

It reads one JSON object a line, forks a process that does what it says, and answers its id. What a
process executes is the real hiring, keeping, giving back and reconcile; only booting and training are
stand-ins: a machine is ready when the provider says that it runs, and it trains while there is a file
`trainings/<instance>` in the home that names its run.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Completed, Crashed, Running

from blocks.home import home, private_folder
from blocks.machines.base import CommandResult
from blocks.models import Instance
from blocks.providers import api, runpod
from blocks.providers.runpod import RunPod
from flows import reconcile as reconciling
from flows import settling
from flows.locks import locked
from flows.renting import booting, giving_back, hiring, keeping
from flows.renting.budget import Budget
from flows.renting.giving_back import give_back
from flows.renting.hiring import Hiring
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from trainer.config import TrainingJob
from trainer.contract.errors import OrchestratorError

SETTLE_SECONDS = 0.8
KEPT_SECONDS = 2.5


def trainings() -> Path:
    return private_folder(home() / "trainings")


def wishes() -> Path:
    """Return where a test leaves what a run shall do: a file by the run's id."""
    return private_folder(home() / "wishes")


def hurry() -> None:
    """Let seconds be tenths, everywhere that a provider or a person is waited for."""
    RunPod.settle_seconds = SETTLE_SECONDS
    runpod.LIST_SECONDS = 0.1
    runpod.CREATE_SECONDS = 0.3
    api.PAUSES = (0.02, 0.05)
    giving_back.LOOK_SECONDS = 0.1
    giving_back.AGAIN_SECONDS = 0.3
    giving_back.PATIENCE_SECONDS = 3.0
    booting.LOOK_SECONDS = 0.05
    booting.LOST_SECONDS = 0.3
    keeping.MARGIN_SECONDS = 0.0
    reconciling.ZOMBIE_SECONDS = 0.0
    reconciling.KEPT_SECONDS = 0.0
    hiring.boot = ready
    hiring.as_it_was = as_it_was
    RunPod.machine = lambda *_, **__: Reached()
    settling._saved = saved
    reconciling.revive = note_revival


async def ready(provider: Any, hire: Any, instance: Instance, job: TrainingJob) -> Instance:
    running = await booting._running(provider, instance, booting.time.monotonic() + 20, 1)
    return dataclasses.replace(running, workspace=f"/there/jobs/{running.mark}")


async def as_it_was(hire: Any, instance: Instance) -> Instance:
    return dataclasses.replace(instance, provider=hire.provider, workspace=hire.workspace)


class Reached:
    """A connection to a machine that does what it is told and has nothing on it."""

    async def __aenter__(self) -> Reached:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""

    async def run(self, *_: Any, **__: Any) -> CommandResult:
        return CommandResult(exit_code=0, stdout="", stderr="")


async def saved(*_: Any) -> bool:
    """What a training of a walk holds is home at once."""
    return True


async def note_revival(run: FlowRun) -> None:
    (private_folder(home() / "revivals") / str(run.id)).touch()


async def execute(run_id: str) -> None:
    """Do what the flow does with machines, for one run."""
    run = RunFolder(run_id)
    async with locked(run.lock, wait=False) as alone:
        if not alone:
            return
        async with get_client() as client:
            found = await client.read_flow_run(UUID(run_id))
        if found.state and found.state.is_final() and not found.state.is_crashed():
            return
        await tell(run_id, Running())
        job = TrainingJob.model_validate(found.parameters["job"])
        journal = Journal.of(run)
        try:
            [machine] = await Hiring(job, run, journal, Budget(job, journal)).machines()
        except OrchestratorError as error:
            await settling.settle_run(job, run, str(error))
            await tell(run_id, Crashed(message=str(error)))
            return
        (trainings() / machine.id).write_text(run_id)
        wish = await asked(run_id)
        # Before anything is given back: from here on nobody needs the machine any more.
        (trainings() / machine.id).unlink(missing_ok=True)
        hire = journal.of_instance(machine)
        assert hire is not None
        if wish == "cancel" or not await keeping.keep(job, journal, hire, machine):
            await give_back(journal, hire, wish)
        await tell(run_id, Cancelled() if wish == "cancel" else Completed())


async def asked(run_id: str) -> str:
    while True:
        path = wishes() / run_id
        if path.exists():
            return path.read_text()
        await asyncio.sleep(0.02)


async def tell(run_id: str, state: Any) -> None:
    async with get_client() as client:
        await client.set_flow_run_state(UUID(run_id), state, force=True)


async def cancel(run_id: str) -> None:
    """Cancel a run whose process may be dead."""
    async with get_client() as client:
        run = await client.read_flow_run(UUID(run_id))
        if run.state and run.state.type not in {StateType.COMPLETED, StateType.CANCELLED}:
            await client.set_flow_run_state(run.id, Cancelled(), force=True)


async def reconcile() -> None:
    await reconciling.reconcile_once()


OPERATIONS = {"execute": execute, "cancel": cancel, "reconcile": reconcile}


def work(order: dict[str, Any]) -> None:
    """Do one thing and end."""
    os.environ.update(order["env"])
    operation, words = OPERATIONS[order["do"]], order.get("words", [])
    with temporary_settings({PREFECT_API_URL: order["env"]["PREFECT_API_URL"]}):
        asyncio.run(operation(*words))


def main() -> None:
    """Fork a process for every line of the input."""
    hurry()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if not pid:
            code = 0
            try:
                with Path(order["log"]).open("a") as log:
                    os.dup2(log.fileno(), 2)
                    work(order)
            except BaseException:  # noqa: BLE001 - it ends here in any case
                traceback.print_exc()
                code = 1
            sys.stderr.flush()
            os._exit(code)
        print(pid, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
