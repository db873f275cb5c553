"""Write to runs that wait why they do: as the message of their state, in Prefect's pages and in ours."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled

from flows.run_state import restore, set_meanwhile
from flows.scheduling.pool import Decision, ExplainWait
from flows.scheduling.seen import SeenRun
from flows.shown import QUEUED

AT_ONCE = 10  # runs that are written to at a time: each takes Prefect's server 50 ms
FIRST = 100  # places in the queue; 'trainctl why' knows of all
PAUSE_SECONDS = 5.0
AGAIN_SECONDS = 60.0  # before another reason is written to the same run
MOVED_SECONDS = 300.0  # by which a run is expected earlier or later before it is told
_NUMBER = re.compile(r"\d[\d:.,]*")


def queued(place: float, message: str) -> State[Any]:
    """Return the state of a run that waits.

    Args:
        place: when it was submitted, in seconds since the epoch: its place in the queue.
        message: why it waits.
    """
    return Scheduled(
        name=QUEUED, scheduled_time=datetime.fromtimestamp(place, UTC), message=message
    )


@dataclass(frozen=True, slots=True)
class _Written:
    reason: str
    expected: float | None
    at: float
    """On a clock that never goes back."""

    def is_news(self, one: ExplainWait) -> bool:
        """Whether there is something else to say by now."""
        if self.expected is not None and one.expected is not None:
            moved = abs(self.expected - one.expected) > MOVED_SECONDS
        else:
            moved = self.expected is not one.expected
        is_new = moved or _NUMBER.sub("#", self.reason) != _NUMBER.sub("#", one.reason)
        # Who comes first changes with every start, and with that the words for all others.
        return is_new and (moved or time.monotonic() - self.at >= AGAIN_SECONDS)


def in_words(one: ExplainWait) -> str:
    """Return why a job waits, and until when at the latest where that is known."""
    if one.expected is None:
        return one.reason
    until = datetime.fromtimestamp(one.expected, UTC)
    return f"{one.reason}, until {until:%Y-%m-%d %H:%M} UTC at the latest by the estimates"


class Reasons:
    """What was written to the runs of a queue."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._written: dict[str, _Written] = {}
        self._may_write = 0.0

    async def write(self, waiting: Mapping[str, SeenRun], decisions: Iterable[Decision]) -> None:
        """Write the reasons that are new to the runs that come first, a few at a time.

        Args:
            waiting: the runs that wait, by id, as they were read.
            decisions: what was decided about them.
        """
        if time.monotonic() < self._may_write:
            return
        self._written = {id: one for id, one in self._written.items() if id in waiting}
        left = AT_ONCE
        for one in decisions:
            run = waiting.get(one.job)
            if left == 0 or run is None or not isinstance(one, ExplainWait) or one.place > FIRST:
                continue
            text, known = in_words(one), self._written.get(run.id)
            if known and not known.is_news(one):
                continue
            self._written[run.id] = _Written(one.reason, one.expected, time.monotonic())
            if run.message != text:
                left -= 1
                await self._write(run, text)
        if left < AT_ONCE:
            self._may_write = time.monotonic() + PAUSE_SECONDS

    async def _write(self, run: SeenRun, reason: str) -> None:
        id = UUID(run.id)
        try:
            ours = await self._client.set_flow_run_state(id, queued(run.submitted, reason))
            # It may have been cancelled, or started by another worker, since it was read.
            known: State[Any] = State(id=UUID(run.state_id), type=StateType.SCHEDULED)
            for other in (await set_meanwhile(self._client, id, known, ours.state))[:1]:
                if other.type is not StateType.SCHEDULED:
                    await restore(self._client, id, other)
        except ObjectNotFound:  # deleted since
            return
