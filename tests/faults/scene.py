"""One fault's scene: a cloud, flow processes that can be killed, and the proof at the end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
from prefect import get_client
from prefect.client.schemas.objects import FlowRun, StateType

from flows.execute import create_run
from flows.locks import is_held
from flows.renting.hire import Hire
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from flows.shown import job_state
from tests.clouds.cloud import Cloud
from tests.clouds.machines import SshdMachine
from tests.clouds.proxy import Proxy
from tests.clouds.rented import free_port
from tests.faults.curves import Curves
from tests.flows.flow_runs import make_job
from tests.waiting import PATIENCE, until
from trainer.config import TrainingJob
from trainer.contract.job_directory import JobDirectory, JobState
from trainer.contract.metrics import read_metrics

MEDIUM = {"max_steps": 200, "eval_steps": 100, "save_steps": 20}
BACKGROUND = (sys.executable, "-m", "flows.background")
LONG = {"max_steps": 400, "eval_steps": 200, "save_steps": 40}
"""Jobs for `Scene.job` that take some 10 s and 20 s, long enough to be disturbed; every other kind
of job that is completed costs a training more, for its curve."""


class Scene:
    """What a test of a fault has: real processes, and what can be seen of them from outside."""

    def __init__(self, provider: str, cloud: Cloud | None, folder: Path, curves: Curves) -> None:
        self.provider = provider
        self.folder = folder
        self.curves = curves
        """The losses of undisturbed trainings."""
        self.flows: list[subprocess.Popen[bytes]] = []
        """The flow processes, the oldest first."""
        self.injected_at: float | None = None
        """Unix seconds."""
        self.recovered_at: float | None = None
        self.words = ""
        self._cloud = cloud
        self._runs: list[UUID] = []
        self._proxies: list[Proxy] = []
        self._heard = 0
        self._watching: asyncio.Task[None] | None = None

    @property
    def cloud(self) -> Cloud:
        """The provider's local cloud; the provider `local` has none."""
        assert self._cloud is not None
        return self._cloud

    @property
    def clouds(self) -> list[Cloud]:
        return [self._cloud] if self._cloud else []

    # What a test does.

    def job(self, **changes: Any) -> TrainingJob:
        """Return a job of 60 fast steps; `changes` go to the job's own fields, else to `training`."""
        outer = {name: changes.pop(name) for name in set(changes) & set(TrainingJob.model_fields)}
        job = make_job(**changes).model_dump() | {"provider": self.provider} | outer
        return TrainingJob.model_validate(job)

    async def run(self, job: TrainingJob, command: Sequence[str] = BACKGROUND) -> FlowRun:
        """Create a flow run of the job and execute it in a process of its own."""
        run = await create_run(job)
        self._runs.append(run.id)
        self.again(run, command)
        return run

    def again(self, run: FlowRun, command: Sequence[str] = BACKGROUND) -> subprocess.Popen[bytes]:
        """Execute the run in a further process, as resuming does."""
        with (self.folder / "flow.log").open("ab") as log:
            self.flows.append(
                subprocess.Popen(
                    [*command, str(run.id), *(["", "asked"] if command is BACKGROUND else [])],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
        return self.flows[-1]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the newest flow process and wait for its end."""
        self.flows[-1].send_signal(number)
        self.flows[-1].wait(PATIENCE)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let the newest flow process stand still meanwhile."""
        self.flows[-1].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.flows[-1].send_signal(signal.SIGCONT)

    def injected(self, run: FlowRun, words: str = "", *, ends: bool = False) -> None:
        """Note that the fault happens now; from here on the clock of its recovery runs.

        Args:
            run: the run that it happens to.
            words: regular expression by which the log tells of it, beside warnings and errors.
            ends: the run shall end by it; else training shall go on.
        """
        self.injected_at, self.recovered_at, self.words = time.time(), None, words
        if self._watching:
            self._watching.cancel()
        self._watching = asyncio.create_task(self._watch(run, ends=ends))

    async def behind_proxy(self) -> Proxy:
        """Put the next machine behind a proxy and return that."""
        port = free_port()
        proxy = Proxy("127.0.0.1", port)
        await proxy.start()
        self._proxies.append(proxy)
        self.cloud.doors.append((proxy.port, port))
        return proxy

    # What a test sees.

    async def said(self, words: str, seconds: float = 120) -> str:
        """Wait until a flow process writes a line with `words`, later than at the last call."""
        log, deadline = self.folder / "flow.log", time.monotonic() + seconds
        while time.monotonic() < deadline:
            over = all(flow.poll() is not None for flow in self.flows)
            text = log.read_text(errors="replace")
            if match := re.compile(words).search(text, self._heard):
                self._heard = match.end()
                return match[0]
            if over:
                break
            await asyncio.sleep(0.005)  # what comes next may come at once
        raise AssertionError(f"{words!r} was never said:\n{text[-3000:]}")

    def step(self, run: FlowRun) -> int:
        """Return the last step that is known here, -1 before there is any."""
        return max(read_metrics(RunFolder(run.id).metrics)[0], default=-1)

    async def at_step(self, run: FlowRun, step: int) -> int:
        """Wait until a step is known here, and return the last one."""
        return await until(lambda: self.step(run) >= step and self.step(run))

    async def state(self, run: FlowRun) -> JobState:
        return job_state(await self.read(run))

    async def read(self, run: FlowRun) -> FlowRun:
        async with get_client() as client:
            return await client.read_flow_run(run.id)

    async def ended(self, run: FlowRun, seconds: float = 400) -> JobState:
        """Wait until the run is at rest and no process works on it; return its state."""

        async def rests() -> FlowRun | None:
            if is_held(RunFolder(run.id).lock) or self.processes(run):
                return None
            found = await self.read(run)
            crashed = found.state is not None and found.state.type is StateType.CRASHED
            return found if job_state(found).at_rest and not crashed else None

        try:
            return job_state(await until(rests, seconds))
        except TimeoutError:
            raise AssertionError(f"it did not end; {await self.story(run)}") from None

    def processes(self, run: FlowRun) -> list[psutil.Process]:
        """Return the flow processes of a run, whoever started them."""
        return _flow_processes({run.id})

    def hires(self, run: FlowRun) -> list[Hire]:
        """Return the rows of the run's journal, the oldest machine first."""
        return sorted(Journal.of(RunFolder(run.id)).hires, key=lambda hire: hire.attempt)

    def machine(self) -> SshdMachine:
        """Return the newest machine."""
        return self.cloud.made[-1]

    def directory(self, run: FlowRun) -> JobDirectory:
        """Return the run's newest job directory: the one on the machine is on this disk too."""
        here = RunFolder(run.id).job_directory()
        there = next((h.workspace for h in reversed(self.hires(run)) if h.workspace), None)
        return here or JobDirectory(there or self.folder / "none")

    async def story(self, run: FlowRun) -> str:
        """Return what a person wants to know when the test failed."""
        found, log = await self.read(run), self.folder / "flow.log"
        said = log.read_text()[-3000:] if log.exists() else ""
        alive = [cloud.alive() for cloud in self.clouds]
        return f"state {found.state}, step {self.step(run)}, alive {alive}, flow said:\n{said}"

    # What the fixture does.

    async def close(self) -> None:
        """End everything that was started."""
        if self._watching:
            self._watching.cancel()
        for process in _flow_processes(set(self._runs)):
            process.kill()
        for flow in self.flows:
            flow.wait(PATIENCE)
        for cloud in self.clouds:
            cloud.stop()
        for proxy in self._proxies:
            await proxy.close()

    async def _watch(self, run: FlowRun, *, ends: bool) -> None:
        """Note when training has advanced, or the run has ended, after the fault."""
        before, asked = self.step(run), 0.0
        while ends or self.step(run) <= before:
            if time.monotonic() - asked > 0.5:
                asked = time.monotonic()
                with suppress(httpx.HTTPError):  # Prefect may be what is away
                    if (await self.read(run)).state.is_final() and not self.processes(run):
                        break
            await asyncio.sleep(0.05)
        self.recovered_at = time.time()


def _flow_processes(runs: set[UUID]) -> list[psutil.Process]:
    wanted = {str(run) for run in runs}
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        zombie = process.info["status"] == psutil.STATUS_ZOMBIE
        if "flows.background" in words and wanted & set(words) and not zombie:
            found.append(process)
    return [process for process in found if process.pid != os.getpid()]
