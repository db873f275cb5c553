"""What a worker does for batches: hold what comes after others, end what can never start, keep the pages.

Nothing is remembered that Prefect does not have: a worker that comes new to a batch reads it, and goes on.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled

from flows.batches.fetching import PAGE, runs_of
from flows.batches.members import SKIPPED, STOPS, TAG, member
from flows.batches.page import JobRow, rows
from flows.batches.publishing import publish, write_page
from flows.logger import logger
from flows.run_state import force_state
from flows.scheduling.dependencies import Clearance, Member, verdicts
from flows.scheduling.labels import AFTER, BATCH, text
from trainer.contract.job_directory import JobState

OVERLAP = 30.0  # seconds: what ended while we read is read the next time
FIRST_LOOK = 300.0  # seconds back, for the pages of batches that ended while no worker was there
STALE = 30.0  # seconds after which a batch is read anew, though nothing seems to have happened
REST = 4.0  # the least pause between two readings of one batch, as a multiple of what one took
IDLE_SECONDS = 60.0  # between looks for ends of batches that we know nothing of
PAGE_SECONDS = 5.0  # the least between two updates of a page


class LabelledRun(Protocol):
    """A run that waits, as `flows.scheduling.seen` has it."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def labels(self) -> Mapping[str, Any]:
        """Those of ours."""


@dataclass(slots=True)
class _Known:
    """A batch as it was read last."""

    members: dict[str, Member]
    read_at: float
    took: float
    waiting: frozenset[str] = frozenset()
    page_due: bool = True
    page_at: float = field(default=-1e9)

    def may_read(self, now: float) -> bool:
        return now - self.read_at >= max(STALE, REST * self.took)


class BatchWatch:
    """Looks after the batches whose jobs wait in a pool; `held` is what its queue asks."""

    def __init__(
        self,
        client: PrefectClient,
        *,
        clock: Callable[[], float] = time.monotonic,
        publishing: Callable[[str, list[JobRow], datetime], Awaitable[None]] | None = None,
    ) -> None:
        """Look after batches.

        Args:
            client: of Prefect's API.
            clock: seconds that never go back.
            publishing: what is done with a page that has changed; None: it goes to Prefect, and to a file.
        """
        self._client = client
        self._clock = clock
        self._publishing = publishing or self._publish
        self._known: dict[str, _Known] = {}
        self._ended_at: dict[str, datetime | None] = {}
        self._looked_at: float | None = None
        self._told: set[str] = set()
        """The runs that can never start, and have been held with the reason once."""

    async def held(self, waiting: Iterable[LabelledRun]) -> dict[str, str]:
        """Return by id why runs may not start yet; end those that can never start.

        Args:
            waiting: the runs that are due and wait; those of no batch are passed over.
        """
        of: dict[str, dict[str, LabelledRun]] = {}
        for run in waiting:
            if batch := text(run.labels, BATCH):
                of.setdefault(batch, {})[run.id] = run
        if of or self._may_look():
            for ended in await self._ended():
                self._note_end(ended)
        found: dict[str, str] = {}
        for batch, runs in of.items():
            found |= await self._judged(batch, runs)
        for batch, known in self._known.items():
            here = frozenset(of.get(batch, ()))
            known.page_due |= here != known.waiting
            known.waiting = here
        await self._update_pages()
        return found

    def _may_look(self) -> bool:
        """Whether it is time to look for what has ended though nothing of a batch waits here."""
        least = PAGE_SECONDS if self._known else IDLE_SECONDS
        return self._looked_at is None or self._clock() - self._looked_at >= least

    async def _ended(self) -> list[FlowRun]:
        """Return the runs of batches that ended since we looked last and were not noted yet."""
        now = self._clock()
        back = FIRST_LOOK if self._looked_at is None else now - self._looked_at + OVERLAP
        since = datetime.fromtimestamp(time.time() - back, UTC)
        found: list[FlowRun] = []
        for offset in range(0, 100 * PAGE, PAGE):
            page = await self._client.read_flow_runs(
                flow_run_filter=FlowRunFilter(
                    tags=FlowRunFilterTags(all_=[TAG]),
                    end_time=FlowRunFilterEndTime(after_=since),
                ),
                sort=FlowRunSort.ID_DESC,
                limit=PAGE,
                offset=offset,
            )
            found += page
            if len(page) < PAGE:
                break
        self._looked_at = now
        new = [run for run in found if self._ended_at.get(str(run.id)) != run.end_time]
        self._ended_at = {str(run.id): run.end_time for run in found}
        return new

    def _note_end(self, run: FlowRun) -> None:
        batch = text(run.labels, BATCH)
        known = self._known.get(batch)
        if known is None:
            # Of a batch that waits for nothing here any more: only its page is still to be made.
            self._known[batch] = _Known({}, read_at=-1e9, took=0.0)
        else:
            known.members[str(run.id)] = member(run, run.labels)
            known.page_due = True

    async def _judged(self, batch: str, runs: Mapping[str, LabelledRun]) -> dict[str, str]:
        """Return why runs of a batch may not start yet, and end those that never can."""
        if not any(run.labels.get(AFTER) or run.labels.get(STOPS) for run in runs.values()):
            self._known.setdefault(batch, _Known({}, read_at=-1e9, took=0.0))
            return {}
        known = self._known.get(batch)
        if (
            known is None
            or not runs.keys() <= known.members.keys()
            or known.may_read(self._clock())
        ):
            known = await self._read(batch)
        judged = self._verdicts(known, runs)
        if any(judged[id].never for id in runs if id in judged):
            # A job that had failed may have been tried again since: what ends others is read anew.
            known = await self._read(batch)
            judged = self._verdicts(known, runs)
            for id in runs:
                if id in judged and judged[id].never:
                    # It waits for one turn more, in which it is told why: whoever writes the reason to
                    # those that wait would otherwise write it over the end.
                    if id in self._told:
                        await self._skip(id, judged[id].never)
                        known.page_due = True
                    self._told.add(id)
        # What nobody knows anything of may have been submitted since; it is judged the next time.
        unknown = Clearance(held="its batch is being read")
        texts = {id: judged.get(id, unknown) for id in runs}
        return {id: one.held or one.never for id, one in texts.items() if one.held or one.never}

    def _verdicts(self, known: _Known, runs: Mapping[str, LabelledRun]) -> dict[str, Clearance]:
        # What waits here waits, whatever it was when the batch was read.
        there = [
            dataclasses.replace(one, state=JobState.CREATED, why="") if id in runs else one
            for id, one in known.members.items()
        ]
        return verdicts(there)

    async def _read(self, batch: str) -> _Known:
        began = self._clock()
        runs = await runs_of(self._client, batch)
        before = self._known.get(batch)
        known = _Known(
            {str(run.id): member(run, run.labels) for run in runs},
            read_at=self._clock(),
            took=self._clock() - began,
        )
        if before is not None:
            known.waiting, known.page_due, known.page_at = (
                before.waiting,
                before.page_due,
                before.page_at,
            )
        self._known[batch] = known
        return known

    async def _skip(self, id: str, why: str) -> None:
        """End a run that can never start."""
        try:
            run = await self._client.read_flow_run(UUID(id))
            # Another worker may have started it since, as one that may start.
            if run.state is not None and run.state.is_scheduled():
                skipped: State[Any] = Cancelled(name=SKIPPED, message=why)
                await force_state(self._client, run, skipped)
                logger().info("job %s is skipped: %s", run.name, why)
        except ObjectNotFound:  # deleted since
            return

    async def _update_pages(self) -> None:
        now = self._clock()
        for batch, known in list(self._known.items()):
            least = max(PAGE_SECONDS, REST * known.took)
            if not known.page_due or now - known.page_at < least:
                continue
            known.page_at = now
            began, moment = self._clock(), datetime.now(UTC)
            try:
                runs = await runs_of(self._client, batch)
                known.took = self._clock() - began
                await self._publishing(batch, rows(runs, moment), moment)
            except (httpx.HTTPError, OSError) as error:
                # A page is a courtesy: what waits must not wait for it. It is tried again.
                logger().debug("the page of batch %s was not updated: %s", batch, error)
                continue
            known.page_due = False
            if all(member(run, run.labels).has_ended for run in runs):
                del self._known[batch]

    async def _publish(self, batch: str, found: list[JobRow], now: datetime) -> None:
        async def ask(method: str, path: str, body: Any) -> Any:
            answer = await self._client.request(method, path, json=body)  # type: ignore[arg-type]
            return answer.json() if answer.content else None

        await publish(ask, batch, found, now)
        write_page(batch, found, now, {})
