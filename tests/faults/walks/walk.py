"""Everything that can go wrong on either side, in any order.

One walk is a few runs of one installation at one account: they are submitted, killed at any moment,
revived, cancelled and finished, while the provider lags, loses answers, refuses and takes machines
back, Prefect is away, the disk is full, and reconcile runs, twice at once or killed half way.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import psutil
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

from blocks.marks import read_mark
from flows.execute import create_run
from flows.renting.journal import Journal
from flows.run_folder import RunFolder, run_folders
from tests.clouds.cloud import Fault
from tests.clouds.runpod import RunPodCloud
from tests.faults.walks.walker import KEPT_SECONDS, SETTLE_SECONDS
from tests.flows.flow_runs import make_job
from tests.waiting import until_now
from trainer.config import TrainingJob

NOWHERE = "http://127.0.0.1:9/api"
FEW = st.integers(0, 2)


class Zygote:
    """Starts processes of ours; they are killed by their ids."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "walker.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.walks.walker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def start(self, do: str, *words: str, **environment: str) -> int:
        order = {"do": do, "words": words, "env": environment, "log": str(self.log)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Walk(RuleBasedStateMachine):
    """One walk; a subclass says where."""

    zygote: ClassVar[Zygote]
    where: ClassVar[Path]
    api_url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.folder = self.where / str(time.monotonic_ns())
        self.cloud = RunPodCloud(self.folder / "cloud")
        self.cloud.start()
        self.cloud.sshd_never, self.cloud.boot_seconds = True, 0.15
        self.cloud.clock_rate = 1.0
        self.home = self.folder / "home"
        os.environ["TRAINING_ORCHESTRATOR_HOME"] = str(self.home)
        self.runs: list[str] = []
        self.processes: list[int] = []
        self.freed: set[str] = set()
        """Runs that a person has cancelled or ended: their machines may go."""
        self.taken: set[str] = set()
        """Machines that the provider took back."""
        self.harmed: list[str] = []

    # What people and processes of ours do.

    def start(self, do: str, *words: str, prefect: bool = True) -> int:
        variables = {
            **self.cloud.environ(),
            "TRAINING_ORCHESTRATOR_HOME": str(self.home),
            "PREFECT_API_URL": self.api_url if prefect else NOWHERE,
        }
        self.processes.append(self.zygote.start(do, *words, **variables))
        return self.processes[-1]

    @initialize()
    def begin(self) -> None:
        self.submit(keep=False)

    @precondition(lambda self: len(self.runs) < 4)
    @rule(keep=st.booleans())
    def submit(self, keep: bool) -> None:
        self.look()
        minutes = KEPT_SECONDS / 60 if keep else 0
        job = make_job().model_dump() | {"provider": "runpod", "keep_minutes": minutes}
        run = asyncio.run(create_run(TrainingJob.model_validate(job)))
        self.runs.append(str(run.id))
        self.start("execute", self.runs[-1])

    @rule(which=FEW, after=st.floats(0, 0.4), prefect=st.booleans())
    def revive(self, which: int, after: float, prefect: bool) -> None:
        self.start("execute", self.runs[which % len(self.runs)], prefect=prefect)
        time.sleep(after)
        self.look()

    @rule(which=FEW, after=st.floats(0, 0.3))
    def kill(self, which: int, after: float) -> None:
        """SIGKILL the newest process, or one of those before it, at any moment of its work."""
        time.sleep(after)
        with suppress(ProcessLookupError):
            os.kill(self.processes[-1 - which % len(self.processes)], signal.SIGKILL)
        self.look()

    @rule(which=FEW, wish=st.sampled_from(["cancel", "finish"]))
    def wish(self, which: int, wish: str) -> None:
        run = self.runs[which % len(self.runs)]
        self.look()
        self.freed.add(run)
        folder = self.home / "wishes"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / run).write_text(wish)
        if wish == "cancel":
            self.start("cancel", run)

    @rule(passes=st.integers(1, 2), kill=st.booleans(), after=st.floats(0, 0.5))
    def reconcile(self, passes: int, kill: bool, after: float) -> None:
        started = [self.start("reconcile") for _ in range(passes)]
        time.sleep(after)
        if kill:
            with suppress(ProcessLookupError):
                os.kill(started[0], signal.SIGKILL)
        self.look()

    # What goes wrong on the other side.

    @rule(lists=st.floats(0, 0.5), looks=st.floats(0, 0.5))
    def lag(self, lists: float, looks: float) -> None:
        self.cloud.list_lag, self.cloud.look_lag = lists, looks

    @rule(count=st.integers(1, 2))
    def omit(self, count: int) -> None:
        self.cloud.omits = count

    @rule(
        kind=st.sampled_from(["commit_then_drop", "commit_then_status", "drop", "empty"]),
        method=st.sampled_from(["POST", "DELETE", "PATCH", "GET"]),
    )
    def lose_an_answer(self, kind: Any, method: str) -> None:
        self.cloud.faults.add(Fault(kind=kind, method=method, path="/pods", status=503))

    @rule(ignored=st.integers(0, 1), refused=st.integers(0, 1))
    def stay(self, ignored: int, refused: int) -> None:
        self.cloud.terminate_ignored, self.cloud.terminate_refuses = ignored, refused

    @rule(which=FEW)
    def preempt(self, which: int) -> None:
        self.look()
        if alive := self.cloud.alive():
            id = alive[which % len(alive)]
            self.taken.add(id)
            self.cloud.preempt(id)

    @rule(factor=st.sampled_from([0.5, 1.0, 1.04, 3.0]))
    def reprice(self, factor: float) -> None:
        self.cloud.price_factor = factor

    @rule(capacity=st.booleans())
    def sell_out(self, capacity: bool) -> None:
        self.cloud.no_capacity = not capacity

    @rule(seconds=st.floats(0.05, 0.5))
    def wait(self, seconds: float) -> None:
        time.sleep(seconds)
        self.look()

    # What must hold.

    def look(self) -> None:
        """Note each machine that was ended although a run of ours trains on it."""
        for rented in self.cloud.all:
            path = self.home / "trainings" / rented.id
            if rented.ended is None or rented.id in self.taken or not path.exists():
                continue
            run = path.read_text()
            if run and run not in self.freed:
                mark = read_mark(rented.name)
                self.harmed.append(f"{rented.id} as {mark} under run {run}")

    def teardown(self) -> None:
        try:
            self._prove()
        finally:
            for pid in self.processes:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.cloud.stop()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _prove(self) -> None:
        self.look()
        self._calm()
        for run in self.runs:
            self.freed.add(run)
            self._finish(self.start("cancel", run))
        # A process that is alive goes on; the others' machines are reconcile's.
        for pid in self.processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(SETTLE_SECONDS)  # by now the provider shows everything that there is
        kept = [read_mark(one.name) for one in self.cloud.all if one.ended is None]
        until = max((mark.kept_until for mark in kept if mark), default=0.0)
        time.sleep(max(0.0, until + 0.1 - time.time()))
        self._finish(self.start("reconcile"), 30)

        story = self._story()
        assert self.harmed == [], story
        assert self.cloud.alive() == [], story
        assert self.cloud.errors == [], story
        open_rows = [hire for hire in self._hires() if hire.is_open]
        assert open_rows == [], story
        self._prove_the_bill(story)

    def _calm(self) -> None:
        cloud = self.cloud
        cloud.faults.clear()
        cloud.list_lag = cloud.look_lag = 0.0
        cloud.omits = cloud.terminate_ignored = cloud.terminate_refuses = 0
        cloud.no_capacity = False

    def _prove_the_bill(self, story: str) -> None:
        """Every machine is charged to runs for about as long as it was billed."""
        booked: dict[str, float] = {}
        for hire in self._hires():
            booked[hire.instance_id] = booked.get(hire.instance_id, 0.0) + hire.seconds()
        for id, _, billed, _ in self.cloud.billing():
            # A second's looks on either side, and what was kept is paid for to its end.
            slack = 0.01 * billed + 3 * SETTLE_SECONDS + KEPT_SECONDS
            paid = booked.get(id, 0.0)
            assert paid >= billed - slack, (id, booked, billed, story)
            # Nobody looks after a machine while all of ours are dead, so that one which is taken
            # back then counts until somebody does.
            assert paid <= billed + slack or id in self.taken, (id, booked, billed, story)

    def _hires(self) -> list[Any]:
        folders = run_folders()
        return [hire for one in folders for hire in Journal.of(RunFolder(one.name)).hires]

    def _finish(self, pid: int, seconds: float = 20) -> None:
        until_now(lambda: not is_alive(pid), seconds)

    def _story(self) -> str:
        rows = [f"{h.mark} {h.instance_id} {h.ended_at} {h.cause}" for h in self._hires()]
        machines = [(r.id, r.name, r.status, r.ended) for r in self.cloud.all]
        log = self.zygote.log.read_text(errors="replace")[-3000:]
        return f"machines {machines}\nrows {rows}\nharmed {self.harmed}\n{log}"
