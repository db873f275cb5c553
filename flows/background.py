"""Execute a run without a terminal: `python -m flows.background RUN_ID`.

It outlives the terminal that started it. What it prints goes to the run's flow.log.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Pause
from prefect.states import Scheduled

from flows.attended import marked, unmark
from flows.run_folder import RunFolder
from trainer.errors import OrchestratorError
from trainer.own_python import own_python


def start_in_background(run_id: UUID) -> None:
    """Start a process that executes the run without a terminal.

    While another process still executes it, the new one waits for the run's lock.
    """
    run = RunFolder(run_id)
    with marked(run.root) as mark:
        start_beside(run, "flows.background", str(run_id), str(mark), pass_fds=(mark,))


def start_beside(run: RunFolder, module: str, *words: str, pass_fds: Sequence[int] = ()) -> None:
    """Start a module of ours that outlives this process; what it prints goes to the run's flow.log."""
    with (run.root / "flow.log").open("ab") as log:
        subprocess.Popen(  # noqa: S603 - our own interpreter
            own_python("-m", module, *words),
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ,
            start_new_session=True,
        )


async def revive(run: FlowRun) -> None:
    """Let a run whose process died be executed again: by a worker, or here in the background."""
    if run.deployment_id is None:
        start_in_background(run.id)
        return
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Scheduled(name="Reviving"), force=True)


def main(run_id: str, mark: str) -> int:
    """Execute the run to its rest and return the exit code: 1 when it failed, else 0.

    Args:
        run_id: which.
        mark: the descriptor of the run's mark.
    """
    from flows.execute import execute  # it imports the flow, which may revive others

    os.set_inheritable(int(mark), False)  # noqa: FBT003 - its only parameter
    code = 0
    try:
        state = asyncio.run(execute(UUID(run_id)))
        code = 1 if state.is_failed() or state.is_crashed() else 0
        if state.is_crashed():
            return code  # the attendant has it executed again
    except Pause:
        pass
    except OrchestratorError as error:
        sys.stderr.write(f"error: {error}\n")
        code = 1
    unmark(RunFolder(run_id).root, int(mark))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
