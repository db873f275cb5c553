"""Execute a run without a terminal: `python -m flows.background RUN_ID`.

It outlives the terminal that started it. What it prints goes to the run's flow.log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Pause
from prefect.logging.configuration import setup_logging
from prefect.states import Scheduled

from flows.attended import hold, start_in_background, unmark
from flows.locks import locked
from flows.logger import OneLine
from flows.run_folder import RunFolder
from flows.run_state import force_state
from flows.shown import REVIVING, is_over
from trainer.contract.errors import OrchestratorError
from trainer.contract.garbage import search_seldom


async def revive(run: FlowRun) -> None:
    """Have a run whose process died executed again: by a worker, or here in the background."""
    if run.deployment_id is None:
        start_in_background(run.id)  # it looks for itself whether the run has ended meanwhile
        return
    # Looked at again under the lock: a process may have brought the run to its end since it was
    # read, and would be undone.
    async with locked(RunFolder(run.id).lock, wait=False) as alone, get_client() as client:
        now = await client.read_flow_run(run.id)
        if alone and not is_over(now):
            await force_state(client, now, Scheduled(name=REVIVING))


def main(run_id: str, inherited: str | None = None, asked: str = "") -> int:
    """Execute the run to its rest and return the exit code: 1 when it failed, else 0.

    Args:
        run_id: which.
        inherited: the descriptor of the run's mark, from whoever started this process.
        asked: not empty when a person asked for it, who may have a run at rest go on.
    """
    # Here, not at the top: reconcile imports this module for `revive`, and not to run the flow.
    from flows.execute import execute

    code = 0
    run = RunFolder(run_id)
    mark = int(inherited) if inherited else hold(run.root)
    # Children such as the trainer's supervisor outlive this process, and must not hold its mark.
    os.set_inheritable(mark, False)  # noqa: FBT003 - its only parameter
    # Now, because Prefect would do it at the first run of a flow, and drop the handler added below.
    setup_logging()
    notes = run.notes.open("a", encoding="utf-8", buffering=1)
    logging.getLogger().addHandler(OneLine(lambda line: notes.write(f"{line}\n")))
    try:
        state = asyncio.run(execute(UUID(run_id), asked=bool(asked)))
        code = 1 if state.is_failed() or state.is_crashed() else 0
        if state.is_crashed():
            return code  # still marked: the attendant has it executed again
    except Pause:
        pass  # at rest as asked, which is no failure
    except OrchestratorError as error:
        sys.stderr.write(f"error: {error}\n")
        code = 1
    unmark(run.root, mark)
    return code


if __name__ == "__main__":
    search_seldom()
    sys.exit(main(*sys.argv[1:]))
