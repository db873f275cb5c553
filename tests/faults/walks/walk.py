"""Everything that can go wrong on either side, in any order.

One walk is a few runs of one installation at one account: they are submitted, killed at any moment,
revived, cancelled and finished, while the provider lags, loses answers, refuses and takes machines
back, Prefect is away, our disk is full, and reconcile runs, twice at once or killed half way.

After each walk everything is well again, and reconcile runs once. Then nothing is billed, every
bill is in the journals, no training was stopped that nobody wanted to stop, a cap was heard in time,
and each run's log is at home: every byte that its trainings wrote, once, up to where a machine was
taken back. The disk is left out where nothing can be mounted.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

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
from tests.faults import disk
from tests.faults.provider_trouble import ProviderTrouble
from tests.faults.walks.accounts import opened
from tests.faults.walks.machines import Machines, Training
from tests.faults.walks.walker import KEPT_SECONDS, MACHINES, SETTLE_SECONDS
from tests.flows.flow_runs import make_job
from tests.processes import is_running
from tests.waiting import until_now
from trainer.config import TrainingJob

NOWHERE = "http://127.0.0.1:9/api"
FEW = st.integers(0, 2)
CAP = 5e-5
"""USD: what the cheapest machine costs in a second and a half."""
LATE_SECONDS = 3.0
"""From when the cap is reached until the training hears of it: a look, on a computer that is busy."""
DISK = "4m"


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


class Walk(ProviderTrouble, RuleBasedStateMachine):
    """One walk; a subclass says where."""

    provider: ClassVar[str]
    zygote: ClassVar[Zygote]
    where: ClassVar[Path]
    api_url: ClassVar[str]
    trained: ClassVar[int] = 0
    """How many trainings there were in all walks: without any, nothing is proved."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = self.where / str(time.monotonic_ns())
        self.machines = Machines(self.folder / "machines", self.harm)
        self.cloud = opened(self.provider, self.folder / "cloud")
        self.cloud.machines_of_walk = self.machines
        self.cloud.start()
        self.cloud.sshd_never, self.cloud.boot_seconds = True, 0.15
        self.cloud.clock_rate = 1.0
        if hasattr(self.cloud, "rates"):
            self.cloud.rates.factor = 0.0
        # Not among pytest's folders, which it could not remove if this is killed.
        self.home = Path(tempfile.mkdtemp(prefix="walk-"))
        self.has_disk = True
        try:
            disk.mount(self.home, DISK)
        except (OSError, subprocess.CalledProcessError):
            self.has_disk = False
        os.environ["TRAINING_ORCHESTRATOR_HOME"] = str(self.home)
        self.said_before = self.zygote.log.stat().st_size
        self.runs: list[str] = []
        self.processes: list[int] = []
        self.freed: set[str] = set()
        """Runs that a person has cancelled or ended: their machines may go."""
        self.taken: set[str] = set()
        """Machines that the provider took back."""
        self.harmed: list[str] = []
        self.executing: dict[str, list[int]] = {}
        """The processes that a run was executed by."""
        self.caps: dict[str, float] = {}
        """The `limits.max_cost` of the runs that have one."""
        self.spent: dict[str, float] = {}
        """USD that those had spent when their first process asked their training to stop for it."""

    # What people and processes of ours do.

    def start(self, do: str, *words: str, prefect: bool = True) -> int:
        variables = {
            **self.cloud.environ(),
            "TRAINING_ORCHESTRATOR_HOME": str(self.home),
            MACHINES: str(self.machines.there),
            "PREFECT_API_URL": self.api_url if prefect else NOWHERE,
        }
        self.processes.append(self.zygote.start(do, *words, **variables))
        return self.processes[-1]

    @initialize(trains=st.sampled_from([True, True, True, False]))
    def begin(self, trains: bool) -> None:
        """Go through what comes before a training, or see one first."""
        self.submit(keep=False, cap=None)
        if trains:
            until_now(lambda: self.machines.trainings, 30)

    @precondition(lambda self: len(self.runs) < 4)
    @rule(keep=st.booleans(), cap=st.sampled_from([None, None, CAP]))
    def submit(self, keep: bool, cap: float | None) -> None:
        minutes = KEPT_SECONDS / 60 if keep else 0
        job = {**make_job().model_dump(), "provider": self.provider, "keep_minutes": minutes}
        job["limits"] = {"max_cost": cap}
        run = str(asyncio.run(create_run(TrainingJob.model_validate(job))).id)
        self.runs.append(run)
        if cap:
            self.caps[run] = cap
        self.execute(run)

    def execute(self, run: str, *, prefect: bool = True) -> None:
        pid = self.start("execute", run, prefect=prefect)
        self.executing.setdefault(run, []).append(pid)

    @rule(which=FEW, after=st.floats(0, 0.4), prefect=st.booleans())
    def revive(self, which: int, after: float, prefect: bool) -> None:
        self.execute(self.runs[which % len(self.runs)], prefect=prefect)
        time.sleep(after)

    @rule(which=FEW, after=st.floats(0, 0.3))
    def kill(self, which: int, after: float) -> None:
        """SIGKILL the newest process, or one of those before it, at any moment of its work."""
        time.sleep(after)
        with suppress(ProcessLookupError):
            os.kill(self.processes[-1 - which % len(self.processes)], signal.SIGKILL)

    @rule(which=FEW, wish=st.sampled_from(["cancel", "finish"]))
    def wish(self, which: int, wish: str) -> None:
        run = self.runs[which % len(self.runs)]
        self.freed.add(run)
        if wish == "cancel":
            self.start("cancel", run)
        else:
            self.machines.finishing.add(run)

    @rule(passes=st.integers(1, 2), kill=st.booleans(), after=st.floats(0, 0.5))
    def reconcile(self, passes: int, kill: bool, after: float) -> None:
        started = [self.start("reconcile") for _ in range(passes)]
        time.sleep(after)
        if kill:
            with suppress(ProcessLookupError):
                os.kill(started[0], signal.SIGKILL)

    @precondition(lambda self: self.has_disk)
    @rule()
    def fill_our_disk(self) -> None:
        with suppress(OSError):
            disk.fill(self.home)

    @rule()
    def make_room(self) -> None:
        (self.home / "filler").unlink(missing_ok=True)

    # What goes wrong on the other side.

    @rule(lists=st.floats(0, 0.5), looks=st.floats(0, 0.5))
    def lag(self, lists: float, looks: float) -> None:
        self.cloud.list_lag, self.cloud.look_lag = lists, looks

    @rule(which=FEW, again=st.booleans())
    def preempt(self, which: int, again: bool) -> None:
        """Take a machine back, or do so amid its log and see its run train on another one."""
        if not (alive := self.cloud.alive()):
            return
        id = alive[which % len(alive)]
        on_it = [one.run for one in self.machines.trainings if one.machine == id and one.alive]
        with suppress(TimeoutError):
            if again and on_it:
                until_now(lambda: self._at_home(on_it[0]), 2)
        self.taken.add(id)
        self.cloud.preempt(id)
        with suppress(TimeoutError):
            if again and on_it:
                until_now(lambda: self._trains(on_it[0]), 6)

    @rule(factor=st.sampled_from([0.5, 1.0, 1.04, 3.0]))
    def reprice(self, factor: float) -> None:
        """Change what the next machines cost, where the local cloud can."""
        if hasattr(self.cloud, "price_factor"):
            self.cloud.price_factor = factor

    @rule(seconds=st.floats(0.05, 0.5))
    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    @rule(which=FEW)
    def see_it_train(self, which: int) -> None:
        """Wait until a run trains; for a second at most."""
        with suppress(TimeoutError):
            until_now(lambda: self._trains(self.runs[which % len(self.runs)]), 1)

    # What must hold.

    def _trains(self, run: str) -> bool:
        return any(one.alive for one in self.machines.of(run))

    def harm(self, run: str, how: str) -> None:
        """Note that somebody stopped a training, if nobody wanted that."""
        if run in self.caps and "limits.max_cost reached" in how:
            if len(self.executing[run]) == 1:  # nobody looks while all its processes are dead
                self.spent[run] = self._spent(run)
            return
        if run not in self.freed and not any(id in how for id in self.taken):
            self.harmed.append(f"run {run}: {how}")

    def teardown(self) -> None:
        try:
            self._prove()
        finally:
            for pid in self.processes:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            type(self).trained += len(self.machines.trainings)
            self.machines.close()
            self.cloud.stop()
            if self.has_disk:
                disk.unmount(self.home)
            for folder in (self.folder, self.home):
                shutil.rmtree(folder, ignore_errors=True)

    def _prove(self) -> None:
        for run, cap in self.caps.items():
            self._prove_the_cap(run, cap)
        self._calm()
        self.make_room()
        self.freed.update(self.runs)
        for cancelling in [self.start("cancel", run) for run in self.runs]:
            self._finish(cancelling)
        # A process that is alive goes on; the others' machines are reconcile's.
        for pid in self.processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)  # for the provider to carry out what is on its way
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
        for run in self.runs:
            self._prove_the_log(run, story)

    def _calm(self) -> None:
        cloud = self.cloud
        cloud.faults.clear()
        cloud.list_lag = cloud.look_lag = 0.0
        cloud.omits = cloud.terminate_ignored = cloud.terminate_refuses = 0
        cloud.no_capacity = False

    def _prove_the_cap(self, run: str, cap: float) -> None:
        """A training hears of its cap in time, if the run's first process still looks after it."""
        if len(self.executing[run]) == 1 and is_running(self.executing[run][0]):
            until_now(lambda: not self._trains(run) or not is_running(self.executing[run][0]), 10)
        prices = [one.price_per_hour for one in self.cloud.all]
        most = cap + LATE_SECONDS * max(prices, default=0.0) / 3600
        assert self.spent.get(run, 0.0) <= most, (run, self.spent, most, self._story())

    def _spent(self, run: str) -> float:
        """Return what the machines of a run have cost that no other run had."""
        theirs = {one.machine for one in self.machines.trainings if one.run != run}
        mine = {one.machine for one in self.machines.of(run)} - theirs
        return sum(usd for id, _, _, usd in self.cloud.billing() if id in mine)

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

    def _prove_the_log(self, run: str, story: str) -> None:
        """What the trainings of a run wrote is at home, each beginning where the one before ended."""
        home = self._at_home(run)
        trainings = self.machines.of(run)
        ends = [*(one.begins for one in trainings[1:]), len(home)]
        begins = [one.begins for one in trainings] or ends
        assert begins[0] == 0, (run, home, story)
        for training, end in zip(trainings, ends, strict=False):
            came, written = home[training.begins : end], bytes(training.written)
            assert self._is_whole(training, came, written), (run, came, written, story)

    def _at_home(self, run: str) -> bytes:
        log = self.home / "runs" / run / "train.log"
        return log.read_bytes() if log.exists() else b""

    def _is_whole(self, training: Training, came: bytes, written: bytes) -> bool:
        # A torn line is ended before the log of the next machine goes on.
        came = came if written.startswith(came) else came.removesuffix(b"\n")
        return written.startswith(came) and (came == written or training.machine in self.taken)

    def _hires(self) -> list[Any]:
        folders = run_folders()
        return [hire for one in folders for hire in Journal.of(RunFolder(one.name)).hires]

    def _finish(self, pid: int, seconds: float = 20) -> None:
        until_now(lambda: not is_running(pid), seconds)

    def _story(self) -> str:
        rows = [f"{h.mark} {h.instance_id} {h.ended_at} {h.cause}" for h in self._hires()]
        machines = [(r.id, r.name, r.status, r.ended) for r in self.cloud.all]
        log = self.zygote.log.read_bytes()[self.said_before :].decode(errors="replace")
        return f"machines {machines}\nrows {rows}\nharmed {self.harmed}\ncloud {self.cloud.errors}\n{log}"
