"""Turn what happens to a job into events of Prefect, for automations."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid5

from prefect.events import emit_event

from flows.run_folder import RunFolder
from trainer.contract.events import parse_events
from trainer.contract.tail import TailReader

INTERVAL_SECONDS = 2.0


class Events:
    """Emits the events of one run, each once: its id follows from the run and its content."""

    def __init__(self, run_id: UUID, run: RunFolder) -> None:
        self._run_id = run_id
        self._tail = TailReader(run.events)

    async def run(self) -> None:
        """Emit what is new, again and again. Runs until it is cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(INTERVAL_SECONDS)

    def look(self) -> None:
        """Read on, and emit the events that came."""
        for lines in self._tail.chunks():
            for event in parse_events(lines):
                emit_event(
                    event=f"training-orchestrator.{event.kind}",
                    resource={"prefect.resource.id": f"prefect.flow-run.{self._run_id}"},
                    payload={"step": event.step, "message": event.message, "facts": event.facts},
                    # A flow that attaches reads the file from the start and emits all again. The
                    # server ignores an event whose id it has (ON CONFLICT DO NOTHING).
                    id=uuid5(self._run_id, event.identity),
                )
