"""Write to runs that wait why they do: as the message of their state, in Prefect's pages and in ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
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


class Reasons:
    """What was written to the runs of a queue."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._written: dict[str, str] = {}

    async def write(self, waiting: Mapping[str, SeenRun], decisions: Iterable[Decision]) -> None:
        """Write the reasons that are new to the runs that come first, a few at a time.

        Args:
            waiting: the runs that wait, by id, as they were read.
            decisions: what was decided about them.
        """
        self._written = {id: text for id, text in self._written.items() if id in waiting}
        left = AT_ONCE
        for one in decisions:
            run = waiting.get(one.job)
            if left == 0 or run is None or not isinstance(one, ExplainWait) or one.place > FIRST:
                continue
            known = self._written.get(run.id) or (run.message if run.state == QUEUED else None)
            # A time that is a second less is nothing new.
            if known is not None and _NUMBER.sub("#", known) == _NUMBER.sub("#", one.reason):
                continue
            left -= 1
            self._written[run.id] = one.reason
            await self._write(run, one.reason)

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
