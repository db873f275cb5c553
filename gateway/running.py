"""Execute a job in this process, with a view of it; Ctrl-C asks what to do."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from enum import Enum, auto
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import Pause, PrefectHTTPStatusError
from prefect.states import Cancelling

from flows.background import start_in_background
from flows.execute import execute
from flows.run_folder import RunFolder
from flows.shown import job_state, short_id
from gateway import jobs, watch
from gateway.api import hush_prefect
from gateway.ending import tell_end
from gateway.exits import Exit, code_of_state, note, say
from gateway.live import Display, display
from gateway.logs import MirrorReader

POLL_SECONDS = 0.5
QUESTION = "\n[d]etach: it goes on in the background   [s]top: save and stop   [c]ontinue ? "


class Phase(Enum):
    """What the person at the terminal has said so far."""

    WATCHING = auto()
    ASKED = auto()
    STOPPING = auto()


async def run_here(client: PrefectClient, run_id: UUID, *, show_logs: bool) -> Exit:
    """Execute the run in this process, show it until it is at rest, and tell how it ended."""
    with display() as screen:
        hush_prefect(screen.line)
        here = RunHere(client, run_id, screen, show_logs=show_logs)
        run = await here.to_its_rest()
    tell_end(run, RunFolder(run_id))
    return code_of_state(job_state(run))


class RunHere:
    """One execution and the view of it."""

    def __init__(
        self, client: PrefectClient, run_id: UUID, screen: Display, *, show_logs: bool
    ) -> None:
        self._client = client
        self._run_id = run_id
        self._screen = screen
        self._log = MirrorReader(RunFolder(run_id).log) if show_logs else None
        self._steps = watch.mirrored(run_id)
        self._phase = Phase.WATCHING
        self._stopping: asyncio.Task[None] | None = None

    async def to_its_rest(self) -> FlowRun:
        """Execute and show; return the run as it is at the end."""
        loop = asyncio.get_running_loop()
        executing = asyncio.create_task(_executed(self._run_id))
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        try:
            while not executing.done():
                await self._show()
                await asyncio.wait({executing}, timeout=POLL_SECONDS)
            state = executing.result()
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            if self._phase is Phase.ASKED:
                loop.remove_reader(sys.stdin)
        await self._settle(state)
        self._phase = Phase.WATCHING
        await self._show()
        return await self._client.read_flow_run(self._run_id)

    async def _show(self) -> None:
        for line in self._log.read() if self._log else []:
            self._screen.line(line)
        if self._phase is Phase.ASKED:
            return
        try:
            run = await self._client.read_flow_run(self._run_id)
        except (httpx.TransportError, PrefectHTTPStatusError):
            return  # training goes on without the API, and so does its view later
        self._screen.show(jobs.view(run, self._steps()))

    async def _settle(self, state: State[Any] | None) -> None:
        """Set the last state when Prefect refused it: a stop that came too late, after the end.

        Prefect lets a run that is asked to cancel become nothing but cancelled.
        """
        run = await self._client.read_flow_run(self._run_id)
        if run.state and run.state.type is StateType.CANCELLING and state and state.is_final():
            await self._client.set_flow_run_state(self._run_id, state, force=True)

    def _interrupted(self) -> None:
        match self._phase:
            case Phase.WATCHING if sys.stdin.isatty() and sys.stdout.isatty():
                self._ask()
            case Phase.WATCHING:
                self._stop()
            case Phase.ASKED:
                self._answered("s")
            case Phase.STOPPING:
                self._screen.hide()  # the terminal's cursor comes back
                note(f"\nleft at once; see: trainctl status {self._run_id}")
                _leave(Exit.INTERRUPTED)

    def _ask(self) -> None:
        self._phase = Phase.ASKED
        self._screen.hide()
        sys.stdout.write(QUESTION)
        sys.stdout.flush()
        loop = asyncio.get_running_loop()
        # The terminal hands over whole lines, so reading one does not block.
        loop.add_reader(sys.stdin, lambda: self._answered(sys.stdin.readline()))

    def _answered(self, answer: str) -> None:
        asyncio.get_running_loop().remove_reader(sys.stdin)
        self._phase = Phase.WATCHING
        match answer.strip().lower()[:1]:
            case "d":
                self._detach()
            case "s":
                self._stop()
            case _:
                pass

    def _stop(self) -> None:
        self._phase = Phase.STOPPING
        self._screen.line("stopping: the training saves a checkpoint first; Ctrl-C again leaves")
        self._stopping = asyncio.create_task(self._ask_to_stop())

    async def _ask_to_stop(self) -> None:
        try:
            await self._client.set_flow_run_state(self._run_id, Cancelling())
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            self._screen.line(f"Prefect's API did not take the stop: {error}; Ctrl-C again leaves")

    def _detach(self) -> None:
        start_in_background(self._run_id)
        tell_detached(self._run_id)
        _leave(Exit.OK)


async def _executed(run_id: UUID) -> State[Any] | None:
    try:
        return await execute(run_id)
    except Pause:
        return None  # its state is set


def tell_detached(run_id: UUID) -> None:
    """Say how to follow and how to stop a job in the background."""
    short = short_id(run_id)
    say(f"job {run_id} goes on in the background")
    say(f"follow it:  trainctl monitor {short} --follow")
    say(f"stop it:    trainctl cancel {short}")


def _leave(code: Exit) -> None:
    """End this process without Prefect marking the run as crashed; the training lives on."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
