"""The stream of one job, made once for all who watch it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flows.shown import state_of
from gateway.metrics.store import MetricsStore
from gateway.streams.event_files import events_between
from gateway.streams.messages import (
    Message,
    MessageType,
    PastState,
    StreamCursor,
    message,
    metrics_data,
    microseconds,
    notification_of_state,
    notifications_of_events,
    status_data,
)
from gateway.streams.subscription import Subscription
from trainer.contract.events import Event
from trainer.contract.metrics import Record


@dataclass(frozen=True, slots=True)
class Joined:
    """Where a feed stood when a client joined it; the client is told by its subscription since."""

    subscription: Subscription
    cursor: StreamCursor
    states: Sequence[PastState]


class JobFeed:
    """Takes what is new of a job and puts it before everybody who watches."""

    def __init__(self, job: str, store: MetricsStore) -> None:
        self.job = job
        self._store = store
        self._subscriptions: set[Subscription] = set()
        self._states: list[PastState] = []
        self.cursor = StreamCursor()
        self.gone = asyncio.Event()
        """Prefect knows its run no more: it was deleted, or is another one since it was submitted."""
        self.foreign = 0
        """How often others had added to the job's metrics when last looked at."""

    async def prepare(self) -> None:
        """Find out where the job stands, before the first client joins."""
        _, event = await events_between(self.job, 0)
        record = await self._store.newest(self.job) or {"step": -1}
        self.cursor = StreamCursor(step=record["step"], event=event)
        self.foreign = (await self._store.foreign([self.job])).get(self.job, 0)

    def join(self) -> Joined:
        """Put everything from now on before a client."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        return Joined(subscription, self.cursor, tuple(self._states))

    def leave(self, joined: Joined) -> None:
        """Forget a client."""
        self._subscriptions.discard(joined.subscription)

    def publish_records(self, records: Sequence[Record]) -> None:
        """Put records of metrics before all, in the order in which they came."""
        for record in records:
            self.cursor = replace(self.cursor, step=max(self.cursor.step, record["step"]))
            self._publish(self._metrics(record, self.cursor))

    def publish_states(self, states: Sequence[PastState]) -> None:
        """Put states before all; those that are known already are passed over."""
        for state in sorted(states, key=microseconds):
            if microseconds(state) > self.cursor.state:
                for each in self._of_state(self._states[-1:], state, self.cursor):
                    self._publish(each)
                self._states.append(state)
                self.cursor = replace(self.cursor, state=microseconds(state))

    def publish_events(self, events: Sequence[Event], end: int) -> None:
        """Put what happened in the training before all; `end`: of the file, in bytes."""
        self.cursor = replace(self.cursor, event=end)
        for data in notifications_of_events(self.job, events):
            self._publish(message(MessageType.NOTIFICATION, data, self.cursor))

    async def missed(self, joined: Joined, after: StreamCursor | None) -> AsyncIterator[Message]:
        """Yield what a client has missed that comes back, or how things stand to one that is new.

        Args:
            joined: what comes later is in its subscription.
            after: what the client has; None: it is new.
        """
        now, states = joined.cursor, joined.states
        if after is None:
            if states:
                yield message(MessageType.STATUS, status_data(self.job, states[-1]), now)
            if record := await self._store.newest(self.job):
                # It may be newer than what the feed had when the client joined.
                yield self._metrics(record, replace(now, step=max(now.step, record["step"])))
            return
        at = after
        for number, state in enumerate(states):
            if microseconds(state) > after.state:
                for each in self._of_state(states[max(0, number - 1) : number], state, at):
                    at = each.cursor
                    yield each
        events, _ = await events_between(self.job, after.event, now.event)
        at = replace(at, event=max(after.event, now.event))
        for data in notifications_of_events(self.job, events):
            yield message(MessageType.NOTIFICATION, data, at)
        # The newest step comes once more: its evaluation may have been missed.
        async for each in self.since(after.step, at):
            yield each

    async def since(self, step: int, at: StreamCursor | None = None) -> AsyncIterator[Message]:
        """Yield the stored metrics from a step on."""
        at = replace(at or self.cursor, step=step)
        for record in await self._store.records(self.job, after=step - 1):
            at = replace(at, step=max(at.step, record["step"]))
            yield self._metrics(record, at)

    def _metrics(self, record: Record, cursor: StreamCursor) -> Message:
        return message(MessageType.METRICS, metrics_data(record), cursor)

    def _of_state(
        self, before: Sequence[PastState], state: PastState, at: StreamCursor
    ) -> Iterator[Message]:
        """Yield the messages about a state, unless it says the same as the one before."""
        if before and _says(before[0]) == _says(state):
            return
        cursor = replace(at, state=microseconds(state))
        told = notification_of_state(self.job, state)
        # A client that is cut off between the two gets both once more, and never only the first.
        status_at = cursor if told is None else at
        yield message(MessageType.STATUS, status_data(self.job, state), status_at)
        if told is not None:
            yield message(MessageType.NOTIFICATION, told, cursor)

    def _publish(self, each: Message) -> None:
        for subscription in self._subscriptions:
            subscription.put(each)


def _says(state: PastState) -> tuple[Any, str | None]:
    return state_of(state), state.message
