"""Processes of ours that can be killed at any moment, forked from one that has imported everything.

    python -m tests.faults.walks.walker

It reads one JSON object a line, forks a process that does what it says, and answers its id. What a
process executes is the real flow and the real reconcile; a run's machines are folders, in which
`tests.faults.walks.machines` trains, and seconds are tenths.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import signal
import ssl
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import anyio
import anyio.lowlevel
import asyncssh  # noqa: F401 - here, so that it is not imported in every process
from prefect import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Abort
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Completed, Running

from blocks.keys import MachineKeys
from blocks.models import Instance
from blocks.providers import absence, api, lost_answer
from blocks.providers.base import Provider
from blocks.registry import provider_class, provider_names
from flows import reconcile as reconciling
from flows import settling, train, verdict, wanted
from flows.renting import booting, budget, giving_back, keeping, liveness, recalling, turns
from flows.run_folder import RunFolder
from flows.shown import is_over
from flows.sole_owner import own
from flows.streaming import checkpoint_mirror, fetching, file_mirror, requests, training
from gateway.control import ask_cancel
from tests.faults.walks.accounts import ACCOUNTS
from tests.faults.walks.machines import folder_name
from tests.faults.walks.place import Place, Reached
from trainer.config import TrainingJob
from trainer.contract.errors import ConfigError

SETTLE_SECONDS = 0.8
KEPT_SECONDS = 2.5
MACHINES = "WALK_MACHINES"
"""The variable that says where the machines are."""

HURRY: list[tuple[ModuleType, dict[str, Any]]] = [
    *((module, dict(values)) for one in ACCOUNTS.values() for module, values in one.hurry),
    (api, {"PAUSES": (0.02, 0.05)}),
    (absence, {"PAUSE": 0.1}),
    (giving_back, {"LOOK_SECONDS": 0.1, "AGAIN_SECONDS": 0.3, "PATIENCE_SECONDS": 3.0}),
    (booting, {"LOOK_SECONDS": 0.05, "LOST_SECONDS": 0.3}),
    (keeping, {"MARGIN_SECONDS": 0.0}),
    (budget, {"LOOK_SECONDS": 0.1}),
    (lost_answer, {"TURN_SECONDS": 0.1}),
    (turns, {"TURN_SECONDS": 0.1}),
    (recalling, {"ASK_SECONDS": 1.0, "PAUSE_SECONDS": 0.1}),
    (liveness, {"LOOK_SECONDS": 0.1, "PAUSE_SECONDS": 0.1}),
    (training, {"AWAY_SECONDS": 0.05, "SILENCE_SECONDS": 1.0, "PROBE_SECONDS": 0.1}),
    (requests, {"POLL_SECONDS": 0.1}),
    (wanted, {"POLL_SECONDS": 0.1}),
    (checkpoint_mirror, {"LOOK_SECONDS": 0.5, "FULL_SECONDS": 1.0}),
    (file_mirror, {"MISSING_SECONDS": 3.0}),
    (settling, {"LOOK_SECONDS": 0.05}),
    (fetching, {"SPARE": 1 << 14}),  # the disk of a walk is small
    # A run is executed again by the walk, whenever it likes, and not by reconcile.
    (verdict, {"ZOMBIE_SECONDS": 0.0, "KEPT_SECONDS": 0.0, "MAX_REVIVALS": 1000}),
]


def hurry() -> None:
    """Let seconds be tenths, everywhere that a provider, a machine or a person is waited for."""
    for module, values in HURRY:
        for name, value in values.items():
            assert name in vars(module), f"{module.__name__} has no {name}"
            setattr(module, name, value)
    for account in ACCOUNTS.values():
        account.block.settle_seconds = SETTLE_SECONDS
        account.block.workplace = workplace
        if hasattr(account.block, "intervals"):
            account.block.intervals = {}
    reconciling.revive = note_revival
    # The steps as they are, without an engine that tells Prefect of each.
    for step in ("adopt", "provision", "install", "stream", "download", "verify", "teardown"):
        setattr(train, step, getattr(train, step).fn)
    train.place = nowhere_else
    # Each client of Prefect reads all certificates anew, for a server without any.
    ssl.create_default_context = functools.cache(ssl.create_default_context)
    for name, module in list(sys.modules.items()):
        if name.startswith("flows.") and hasattr(module, "get_run_logger"):
            module.get_run_logger = lambda: logging.getLogger("training_orchestrator")


def workplace(provider: Provider, instance: Instance, *, compress: bool = False) -> Place:
    """Return the job directory of an instance of a walk."""
    del compress
    # As for a connection of its own: a machine is taken over only where its keys are known.
    MachineKeys.of(provider.provider_name, instance.id, instance.mark)
    return Place(Reached(Path(os.environ[MACHINES]) / folder_name(instance.id)), instance.workspace)


async def nowhere_else(job: TrainingJob) -> None:
    """Check nothing beforehand: the job of a walk is known to be well."""


async def note_revival(run: FlowRun) -> None:
    """Leave it to the walk to execute a run again."""


async def execute(run_id: str) -> None:
    """Bring one run to its end, as `flows.execute` does."""
    os.environ["PREFECT__FLOW_RUN_ID"] = run_id
    async with get_client() as client:
        await own(RunFolder(run_id))
        found = await client.read_flow_run(UUID(run_id))
    if is_over(found):
        return
    async with get_client() as client:
        await client.set_flow_run_state(found.id, Running())  # refused when it is cancelled by now
    try:
        end = await train.train.fn(TrainingJob.model_validate(found.parameters["job"]))
    except Abort:
        return
    await tell(run_id, end if isinstance(end, State) else Completed())


async def tell(run_id: str, state: Any) -> None:
    async with get_client() as client:
        await client.set_flow_run_state(UUID(run_id), state, force=True)


async def cancel(run_id: str) -> None:
    """Cancel a run, as a person does; one that crashed, as in Prefect's own UI."""
    async with get_client() as client:
        run = await client.read_flow_run(UUID(run_id))
        if run.state and run.state.is_crashed():
            await client.set_flow_run_state(run.id, Cancelled(), force=True)
        else:
            with suppress(ConfigError):  # it is over
                await ask_cancel(client, run)


async def reconcile() -> None:
    for found in await reconciling.reconcile_once():
        logging.getLogger(__name__).warning("%s %s: %s", found.act, found.instance, found.why)


async def warm_up() -> None:
    """Load once what every process would load by itself."""
    for name in provider_names():
        provider_class(name)
    async with get_client():  # its certificates, and the library that it waits by
        await anyio.lowlevel.checkpoint()


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
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        asyncio.run(warm_up())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if not pid:
            code = 0
            try:
                # So that a process of ours can wait for those that it starts itself.
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
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
