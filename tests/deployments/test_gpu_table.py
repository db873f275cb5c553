from __future__ import annotations

import json

import pytest
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from blocks.providers.local.gpus import inventory
from deployments.gpu_table import GpuTable
from trainer.contract.gpu_locks import Allocation, Holder, take


@pytest.mark.usefixtures("prefect_api")
async def test_the_gpus_of_a_computer_are_one_table_that_is_kept_up_to_date(pretended_gpus):
    pretended_gpus.set_up(2, temperature=41, ecc_errors=0)
    async with get_client() as client:
        table = GpuTable(client, "GPU_Box.lan")
        await table.show(inventory())
        with take(Allocation(uuids=("GPU-0",)), Holder.here(name="mine")):
            # As another worker of the same computer does, after the first one died.
            await GpuTable(client, "GPU_Box.lan").show(inventory())
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["gpus-gpu-box-lan"]))
        )

    assert table.key == "gpus-gpu-box-lan"
    [artifact] = found
    rows = json.loads(artifact.data) if isinstance(artifact.data, str) else artifact.data
    assert [(one["UUID"], one["°C"], one["use %"]) for one in rows] == [
        ("GPU-0", 41, ""),
        ("GPU-1", 41, ""),
    ]
    assert rows[0]["state"].startswith("taken by mine of ")
    assert rows[1]["state"] == "free"
