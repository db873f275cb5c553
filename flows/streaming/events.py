"""What the training's log tells of as an event becomes an event of Prefect, for automations."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid5

from prefect.events import emit_event

from flows.run_folder import RunFolder
from trainer.contract.metrics import EVENT
from trainer.contract.tail import TailReader

INTERVAL_SECONDS = 2.0


class Events:
    """Emits the events of one run, each of them once: its id follows from the run and its line."""

    def __init__(self, run_id: UUID, run: RunFolder) -> None:
        self._run_id = run_id
        self._tail = TailReader(run.log)

    async def run(self) -> None:
        """Emit what is new, again and again. Runs until it is cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(INTERVAL_SECONDS)

    def look(self) -> None:
        """Read the log on, and emit the events in it."""
        for lines in self._tail.chunks():
            for line in (line.removesuffix(b"\n") for line in lines):
                if found := EVENT.fullmatch(line):
                    self._emit(line, *(part.decode(errors="replace") for part in found.groups()))

    def _emit(self, line: bytes, name: str, step: str, message: str) -> None:
        emit_event(
            event=f"training-orchestrator.{name}",
            resource={"prefect.resource.id": f"prefect.flow-run.{self._run_id}"},
            payload={"step": int(step), "message": message},
            id=uuid5(self._run_id, line.decode(errors="replace")),
        )
