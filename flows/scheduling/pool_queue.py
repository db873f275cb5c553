"""The queue of a work pool: what Prefect has of it, and what is to be done now.

Nothing of it is kept anywhere else. Whoever reads the same runs decides the same, so a worker that
dies loses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from uuid import UUID

from prefect.client.orchestration import PrefectClient

from flows.asking import asking
from flows.owner import owned_here
from flows.scheduling.administration import Administration
from flows.scheduling.announced import Announcer
from flows.scheduling.gathering import Gathering, Held
from flows.scheduling.labels import Allotment
from flows.scheduling.pool import Decision, PauseJob, PoolMachine, StartJob
from flows.scheduling.reasons import Reasons
from flows.scheduling.seen import SeenRun
from flows.scheduling.settings import PoolSettings
from flows.scheduling.snapshot import Snapshot
from flows.shown import PAUSING

ASKED_SECONDS = 10.0  # after which a run that was to pause and was not asked may be chosen again

Look = Callable[[Mapping[str, Collection[str]]], Awaitable[PoolMachine]]
"""Returns a computer as it is now. It is given the UUIDs of the GPUs that runs of the pool have, by the
runs' ids: these are not taken, whoever else has one has taken it."""


class PoolQueue:
    """Decides for a pool, on the computer of one of its workers."""

    def __init__(
        self,
        client: PrefectClient,
        pool: str,
        machine: Look,
        *,
        limit: int | None = None,
        held: Held | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Decide for a pool.

        Args:
            client: of the API.
            pool: its name.
            machine: returns this computer as it is now; see `Look`.
            limit: how many jobs may run on this pool at once, beside what its settings say.
            held: says who waits for something else.
            clock: seconds since the epoch.
        """
        self._client = client
        self._machine = machine
        self._limit = limit
        ask = asking(client)
        # Its clock is that of Prefect's server.
        self._announcer = Announcer(client, pool, clock)
        self._gathering = Gathering(ask, pool, held, self._announcer.now)
        self._administration = Administration(ask, pool, self._announcer.now)
        self._reasons = Reasons(client)
        self._taken: dict[str, SeenRun] = {}
        """What we started, until Prefect shows it as begun with its GPUs."""
        self._left: set[str] = set()
        """What has let go of its GPUs, until Prefect shows it as ended."""
        self._asked: dict[str, float] = {}
        """When we decided that a run is to pause, until Prefect shows that it was asked."""
        self.snapshot: Snapshot | None = None
        """What was decided about last."""

    @property
    def waiting(self) -> Mapping[str, SeenRun]:
        """The runs that waited when it was decided last, by id."""
        return self.snapshot.runs.waiting if self.snapshot else {}

    @property
    def settings(self) -> PoolSettings:
        """The pool's settings as they were read last."""
        return self._administration.settings

    async def decide(self) -> list[Decision]:
        """Return what is to be done now: whom to start, whom to ask to pause, and why others wait.

        A `StartJob` may name another machine: it is for the worker there.
        """
        rules = await self._administration.read()
        runs = await self._gathering.runs(rules.settings, self._corrected)
        given = {run.id: run.allotment.gpus for run in runs.active.values() if run.allotment}
        machine = await self._machine(given)
        await self._announcer.announce(machine)
        self.snapshot = Snapshot(
            runs, rules.beside(machine), self._announcer.now(), here=machine.name, limit=self._limit
        )
        made = self.snapshot.decide()
        asked = {one.job: time.monotonic() for one in made if isinstance(one, PauseJob)}
        self._asked = asked | self._asked
        return made

    async def take(self, start: StartJob) -> Allotment:
        """Note in Prefect, and here, that a run has its GPUs; to be called before it is started."""
        run = self.waiting[start.job]
        given = Allotment(
            machine=start.machine, gpus=start.gpus, since=self._announcer.now(), place=run.submitted
        )
        labels = {**given.labels(), **owned_here()}
        await self._client.update_flow_run_labels(UUID(start.job), labels)
        self._taken[run.id] = run.with_allotment(given)
        self._left.discard(run.id)
        self._asked.pop(run.id, None)
        return given

    def left(self, job: str) -> None:
        """Note that a run has let go of its GPUs: it ended, paused, or could not be started."""
        self._taken.pop(job, None)
        self._left.add(job)

    async def tell(self, decisions: Iterable[Decision]) -> None:
        """Write to the runs why they wait: to few at a time, and only what is new."""
        await self._reasons.write(self.waiting, decisions)

    def _corrected(self, active: Mapping[str, SeenRun]) -> dict[str, SeenRun]:
        """Return what runs by Prefect and by what we know better."""
        self._left &= active.keys()
        known = {id: run for id, run in active.items() if id not in self._left}
        # What Prefect shows with its GPUs need not be remembered any longer.
        self._taken = {id: run for id, run in self._taken.items() if not _has_gpus(known.get(id))}
        now = time.monotonic()
        self._asked = {id: at for id, at in self._asked.items() if now - at < ASKED_SECONDS}
        pausing = {
            id: replace(known[id], state=PAUSING) for id in self._asked.keys() & known.keys()
        }
        return known | pausing | self._taken


def _has_gpus(run: SeenRun | None) -> bool:
    return run is not None and run.allotment is not None
