"""Hear at once what happens to the runs of a pool, by Prefect's events.

It only saves waiting: who does not hear looks every second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter

from flows.logger import logger
from flows.shown import PAUSING, REVIVING

# The names of states by which a run comes into the queue, and by which something is wanted of it.
COMES = ("Scheduled", "Late", "Resuming", REVIVING)
WANTED = ("Cancelling", "Cancelled", "Paused", "Suspended", PAUSING)
PREFIX = "prefect.flow-run."
AGAIN_SECONDS = 10.0


async def hear(comes: Callable[[], None], wanted: Callable[[UUID], None]) -> None:
    """Call back for every event of a run's state; until it is cancelled.

    Args:
        comes: a run came into the queue.
        wanted: something is wanted of the run with this id.
    """
    names = [f"{PREFIX}{name}" for name in (*COMES, *WANTED)]
    only = EventFilter(event=EventNameFilter(name=names))
    while True:
        try:
            async with get_events_subscriber(only, reconnection_attempts=1) as events:
                async for event in events:
                    if event.event.removeprefix(PREFIX) in COMES:
                        comes()
                        continue
                    with suppress(ValueError):  # whatever others emit under these names
                        wanted(UUID(event.resource.id.removeprefix(PREFIX)))
        except Exception as error:  # noqa: BLE001 - any trouble of the connection only costs a second
            logger().debug("Prefect's events are not heard: %s", error)
        await asyncio.sleep(AGAIN_SECONDS)
