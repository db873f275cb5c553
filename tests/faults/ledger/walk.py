"""What may happen to the money of a few runs, in any order, and what must hold at the end.

Runs are submitted, killed at any moment or in the middle of a call, revived, cancelled and finished;
the provider lags, loses answers, refuses, is sold out and takes machines back; reconcile runs, twice
at once or killed half way. Then all is well again, and reconcile runs once. Ten minutes later nothing
is billed, and what the journals say that each machine cost is what the provider bills, within one
per cent and the seconds between two looks.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from flows.renting.hire import Hire
from tests.faults.ledger import clock
from tests.faults.ledger.setting import Setting
from tests.faults.ledger.wire import Trap
from tests.faults.ledger.world import all_hires, open_hires
from tests.faults.provider_trouble import ProviderTrouble

FEW = st.integers(0, 2)
CAP = 0.05
KEEP_MINUTES = 5.0
LOOKS = 25.0
"""Seconds by which an end may be seen late: two looks at a provider, and the first requests again."""


class LedgerWalk(ProviderTrouble, RuleBasedStateMachine):
    """One walk; a subclass says where."""

    provider: ClassVar[str]
    setting: ClassVar[Setting]
    where: ClassVar[Path]
    parent: ClassVar[int]
    """The process that waits for the walks; without it they end."""
    billed: ClassVar[list[float]]
    """Seconds that each walk's machines were billed: without any, nothing is proved."""

    def __init__(self) -> None:
        super().__init__()
        if os.getppid() != self.parent:
            os._exit(1)
        self.folder = self.where / str(len(self.billed))
        clock.FAILED.clear()
        self.world = self.setting.world(self.provider, self.folder)
        self.loop, self.cloud = self.world.loop, self.world.cloud
        self.runs: list[UUID] = []

    # What people and processes of ours do.

    @initialize(trains=st.sampled_from([True, True, True, False]))
    def begin(self, trains: bool) -> None:
        self.submit(keep=False, cap=None)
        if trains:
            self.loop.until(lambda: self.started(), 400)

    def started(self) -> bool:
        return any(one.started and one.ended is None for one in self.cloud.all)

    @precondition(lambda self: len(self.runs) < 4)
    @rule(keep=st.booleans(), cap=st.sampled_from([None, None, CAP]))
    def submit(self, keep: bool, cap: float | None) -> None:
        run = self.world.submit(keep_minutes=KEEP_MINUTES if keep else 0.0, cap=cap)
        self.runs.append(run)
        self.world.execute(run)

    @rule(which=FEW, after=st.floats(0, 30))
    def revive(self, which: int, after: float) -> None:
        self.world.execute(self.runs[which % len(self.runs)])
        self.loop.pass_time(after)

    @rule(which=FEW, after=st.floats(0, 90))
    def kill(self, which: int, after: float) -> None:
        """SIGKILL the newest process, or one of those before it, at any moment of its work."""
        self.loop.pass_time(after)
        self.loop.kill(self.world.processes[-1 - which % len(self.world.processes)])

    @rule(method=st.sampled_from(["POST", "DELETE", "PATCH", "PUT"]), committed=st.booleans())
    def kill_amid_a_call(self, method: str, committed: bool) -> None:
        """SIGKILL whoever makes the next call of a kind, before it is there or before its answer is."""
        self.world.line.traps = [Trap(method, committed)]

    @rule(which=FEW)
    def cancel(self, which: int) -> None:
        self.world.cancel(self.runs[which % len(self.runs)])

    @rule(which=FEW)
    def finish(self, which: int) -> None:
        self.world.finishing.add(self.runs[which % len(self.runs)])

    @rule(passes=st.integers(1, 2), kill=st.booleans(), after=st.floats(0, 60))
    def reconcile(self, passes: int, kill: bool, after: float) -> None:
        started = [self.world.reconcile() for _ in range(passes)]
        self.loop.pass_time(after)
        if kill:
            self.loop.kill(started[0])

    # What goes wrong on the other side.

    @rule(lists=st.floats(0, 20), looks=st.floats(0, 10))
    def lag(self, lists: float, looks: float) -> None:
        self.cloud.list_lag, self.cloud.look_lag = lists, looks

    @rule(which=FEW)
    def preempt(self, which: int) -> None:
        alive = [one.id for one in self.cloud.all if one.ended is None]
        if alive:
            id = alive[which % len(alive)]
            self.loop.result(self._preempted(id))

    async def _preempted(self, id: str) -> None:
        self.cloud.preempt(id)

    @rule(seconds=st.floats(1, 600))
    def wait(self, seconds: float) -> None:
        self.loop.pass_time(seconds)

    # What must hold.

    def teardown(self) -> None:
        try:
            self._prove()
        finally:
            self.world.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _calm(self) -> None:
        cloud = self.cloud
        cloud.faults.clear()
        self.world.line.traps = []
        cloud.list_lag = cloud.look_lag = 0.0
        cloud.omits = cloud.terminate_ignored = cloud.terminate_refuses = 0
        cloud.no_capacity = False

    def _prove(self) -> None:
        self._calm()
        for run in self.runs:
            self.world.cancel(run)
        self.loop.pass_time(5.0)
        for who in self.world.processes:
            self.loop.kill(who)
        # What is kept waits for its time, and what a lag hid is seen by now.
        self.loop.pass_time(KEEP_MINUTES * 60 + 60)
        for _ in range(10):  # it is scheduled every minute
            if self.cloud.alive() or open_hires():
                self.world.reconcile()
            self.loop.pass_time(60.0)

        story = self._story()
        assert self.cloud.alive() == [], story
        assert self.cloud.errors == [], story
        assert clock.FAILED == [], "\n".join([*clock.FAILED[:1], story])
        assert open_hires() == [], story
        self._prove_the_bill(story)

    def _prove_the_bill(self, story: str) -> None:
        """Every machine is charged to runs for as long as it was billed, and at its price."""
        booked: dict[str, list[Hire]] = {}
        for hire in all_hires():
            booked.setdefault(hire.instance_id, []).append(hire)
        bill = self.cloud.billing()
        self.billed.append(sum(seconds for _, _, seconds, _ in bill))
        for id, _, seconds, _ in bill:
            price = self.cloud.account[id].price_per_hour
            charged = sum(hire.seconds() for hire in booked.get(id, ()))
            cost = sum(hire.compute_cost() for hire in booked.get(id, ()))
            slack = 0.01 * seconds + LOOKS
            assert charged >= seconds - slack, f"{id} {charged} {seconds}{story}"
            # While all of ours are dead nobody sees that a machine has ended.
            alone = not self.cloud.attended.get(id)
            assert charged <= seconds + slack or alone, f"{id} {charged} {seconds}{story}"
            wrong = abs(cost - price * charged / 3600)
            assert wrong <= 0.01 * cost + 1e-6, f"{id} {cost} {price}{story}"

    def _story(self) -> str:
        rows = [
            f"{h.mark} {h.instance_id} {h.seconds():.0f} s {h.started_at}-{h.ended_at} {h.cause}"
            for h in all_hires()
        ]
        machines = [
            f"{r.id} {r.name} {r.status} {r.created:.0f}-{r.ended} gone={r.gone} {r.facts.get('stopping')}"
            for r in self.cloud.all
        ]
        states = [
            f"{id} {run.state and run.state.type}" for id, run in self.world.table.runs.items()
        ]
        said = "\n".join(self.setting.said[-60:])
        parts = [*machines, *rows, *states, f"cloud: {self.cloud.errors}", said]
        return "\n" + "\n".join(parts)
