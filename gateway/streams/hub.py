"""All streams of a service: who watches what, and what is read for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from gateway.metrics.following import Follower
from gateway.metrics.store import MetricsStore
from gateway.streams.event_files import events_between
from gateway.streams.feed import JobFeed, Joined
from gateway.streams.states import StateWatch
from trainer.contract.metrics import Record

TICK_SECONDS = 0.5  # between two looks at events, and at what other replicas have stored
STATES_SECONDS = 3.0  # that the first client waits for them, at most: Prefect may be away
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Watched:
    """A job that somebody watches."""

    feed: JobFeed
    clients: int = 0
    has_states: asyncio.Event = field(default_factory=asyncio.Event)
    prepared: asyncio.Task[None] | None = None


class Streams:
    """Makes the feed of a job when the first client watches, and ends it with the last."""

    def __init__(self, store: MetricsStore, follower: Follower, states: StateWatch) -> None:
        self._store = store
        self._follower = follower
        self._states = states
        self._watched: dict[str, Watched] = {}
        self.dropped = 0
        """Messages that made room for newer ones in front of clients that have left."""
        self.cut_off = 0
        """Clients that did not read."""
        store.listen(self._heard)

    @property
    def clients(self) -> int:
        """How many clients watch."""
        return sum(each.clients for each in self._watched.values())

    @property
    def jobs(self) -> int:
        """How many jobs are watched."""
        return len(self._watched)

    def has(self, job: str) -> bool:
        """Whether anybody watches a job."""
        return job in self._watched

    @asynccontextmanager
    async def watching(self, job: str) -> AsyncIterator[tuple[JobFeed, Joined]]:
        """Let a client join a job's feed for as long as the body runs."""
        watched = self._watched.setdefault(job, Watched(JobFeed(job, self._store)))
        watched.clients += 1
        try:
            if watched.prepared is None:
                watched.prepared = asyncio.create_task(self._prepare(watched))
            # Shielded: a client that goes away does not end it for the others.
            await asyncio.shield(watched.prepared)
            joined = watched.feed.join()
            try:
                yield watched.feed, joined
            finally:
                self.dropped += joined.subscription.dropped
                watched.feed.leave(joined)
        finally:
            watched.clients -= 1
            if not watched.clients:
                self._forget(job)

    async def run(self) -> None:
        """Look for what nobody tells us. Runs until it is cancelled."""
        while True:
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001 - the next look may succeed
                log.warning("streams are late (%s: %s)", type(error).__name__, error)
            await asyncio.sleep(TICK_SECONDS)

    async def _prepare(self, watched: Watched) -> None:
        feed = watched.feed
        self._follower.watch(feed.job)
        await feed.prepare()
        if (run_id := _run_id(feed.job)) is None:
            return  # of another program: Prefect knows nothing of it

        def heard(states: Sequence[Any]) -> None:
            feed.publish_states(states)
            watched.has_states.set()

        self._states.watch(run_id, heard, feed.gone.set)
        with suppress(TimeoutError):
            async with asyncio.timeout(STATES_SECONDS):
                await watched.has_states.wait()

    def _forget(self, job: str) -> None:
        watched = self._watched.pop(job)
        if watched.prepared is not None:
            watched.prepared.cancel()
        self._follower.unwatch(job)
        if run_id := _run_id(job):
            self._states.unwatch(run_id)

    def _heard(self, job: str, records: Sequence[Record]) -> None:
        if watched := self._watched.get(job):
            watched.feed.publish_records(records)

    async def _look(self) -> None:
        feeds = [each.feed for each in self._watched.values() if _is_prepared(each)]
        for feed in feeds:
            events, end = await events_between(feed.job, feed.cursor.event)
            if end > feed.cursor.event:
                feed.publish_events(events, end)
        foreign = await self._store.foreign(feed.job for feed in feeds)
        for feed in feeds:
            if foreign.get(feed.job, 0) > feed.foreign:
                feed.foreign = foreign[feed.job]
                # The newest step once more: what was stored may belong to it.
                records = await self._store.records(feed.job, after=feed.cursor.step - 1)
                feed.publish_records(records)


def _is_prepared(watched: Watched) -> bool:
    return watched.prepared is not None and watched.prepared.done()


def _run_id(job: str) -> UUID | None:
    try:
        return UUID(job)
    except ValueError:
        return None
