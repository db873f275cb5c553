"""The GPUs of a worker's computer in Prefect, for its pages and its REST API: one table, kept up to date."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort

from blocks.providers.local.gpu import Gpu
from blocks.providers.local.gpus import inventory
from flows.logger import logger
from flows.prefect_api import UNANSWERED, asking_once
from trainer.contract.errors import ConfigError

EVERY_SECONDS = 30.0


class GpuTable:
    """An artifact of Prefect for one computer, named `gpus-` and the computer's name."""

    def __init__(self, client: PrefectClient, computer: str = "") -> None:
        self._client = client
        self._computer = computer or socket.gethostname()
        self.key = f"gpus-{re.sub(r'[^a-z0-9]+', '-', self._computer.lower()).strip('-')}"
        self._id: UUID | None = None
        self._shown = ""

    async def keep(self) -> None:
        """Keep it up to date, until it is cancelled."""
        while True:
            try:
                with asking_once():
                    await self.show(await asyncio.to_thread(inventory))
            except UNANSWERED:  # the next look shows what is then
                pass
            except ConfigError as error:
                logger().warning("%s", error)
            await asyncio.sleep(EVERY_SECONDS)

    async def show(self, gpus: list[Gpu]) -> None:
        """Show the GPUs as they are now; nothing is written where there are none, or nothing changed."""
        data = json.dumps([row(gpu) for gpu in gpus])
        if data == self._shown or not (gpus or self._shown):
            return
        if self._id is None:
            self._id = await self._earlier()
        if self._id is None:
            made = await self._client.create_artifact(
                ArtifactCreate(
                    key=self.key,
                    type="table",
                    description=f"The GPUs of {self._computer}: who has which, and what ails them",
                    data=data,
                )
            )
            self._id = made.id
        else:
            await self._client.update_artifact(self._id, ArtifactUpdate(data=data))
        self._shown = data

    async def _earlier(self) -> UUID | None:
        """Return the table of an earlier worker of this computer."""
        found = await self._client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[self.key])),
            sort=ArtifactSort.UPDATED_DESC,
            limit=1,
        )
        return found[0].id if found else None


def row(gpu: Gpu) -> dict[str, Any]:
    """Return a GPU as people read it; what its driver does not say is empty."""
    return {
        "GPU": gpu.index,
        "UUID": gpu.uuid,
        "name": gpu.name,
        "GiB free": round(gpu.free_gb, 1),
        "of": round(gpu.total_gb, 1),
        "use %": _known(gpu.utilisation),
        "°C": _known(gpu.temperature),
        "ECC errors": _known(gpu.ecc_errors),
        "Xid": _known(gpu.xid),
        "island": gpu.island,
        "part of": gpu.parent,
        "state": gpu.why_not or "free",
        "processes": "; ".join(map(str, gpu.processes)),
    }


def _known(value: float | None) -> float | str:
    return "" if value is None else value
