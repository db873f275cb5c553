"""What workers have in common: how a process of a flow is started, what is refused, when they end.

Apart from `pool_worker`, whose class Prefect takes for its own worker of the type "process" wherever it
is imported.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prefect.logging.loggers import flow_run_logger
from prefect.states import Failed
from prefect.workers.process import ProcessJobConfiguration

from trainer.contract.own_python import own_python

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun, State

PR_SET_PDEATHSIG = 1  # from linux/prctl.h


class SafeConfiguration(ProcessJobConfiguration):
    """How a flow process is started: from a folder that it imports nothing from."""

    def prepare_for_flow_run(self, *args: Any, **kwargs: Any) -> None:
        """Fill in the command, unless the pool or the deployment has one of its own."""
        # Prefect's own is `python -m prefect.engine`, which looks for modules in the folder where
        # it runs before it looks in the library.
        if self.command is None:
            self.command = shlex.join(own_python("-m", "prefect.engine"))
        # A flow waits for Prefect however long it is away (`flows.prefect_api`); this is for the
        # moments before it begins: eight pauses that double are eight minutes.
        self.env.setdefault("PREFECT_CLIENT_MAX_RETRIES", "8")
        super().prepare_for_flow_run(*args, **kwargs)


def lacking(flow_run: FlowRun, required: Iterable[str]) -> str:
    """Return why a run is refused: it has no value for what its form requires; "" if it has."""
    # Prefect checks what a person asks for, but not what a schedule makes. The flow would end before
    # any code of ours could say why.
    names = [name for name in required if name not in flow_run.parameters]
    if not names:
        return ""
    return (
        f"This run has no {', '.join(names)}: put it into the parameters of its "
        f"deployment or of its schedule."
    )


async def refuse(client: PrefectClient, flow_run: FlowRun, reason: str) -> None:
    """Fail a run that cannot be executed, and say so in its log."""
    flow_run_logger(flow_run=flow_run).error(reason)
    failed: State[Any] = Failed(message=reason)
    await client.set_flow_run_state(flow_run.id, failed, force=True)


def die_with(parent: int) -> None:
    """Be killed when the parent ends, however it ends; exit at once when it has ended already."""
    # SIGKILL, because nothing is left that could wait for us. Flow processes are not affected: the
    # setting is cleared in children (prctl(2)).
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # Checked afterwards: a parent that died before the call sends no signal any more.
    if os.getppid() != parent:
        sys.exit(1)
