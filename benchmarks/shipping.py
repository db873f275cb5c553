"""A flow that follows and ships a log, nothing else: `shipping.py SOURCE RESULT`.

It is the part of the training flow that meets a noisy log: the mirror and the LogShipper. It
writes its run's id to RESULT.run, and at its end what it cost to RESULT. See bench_logs.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from pathlib import Path

from common import EXAMPLES
from prefect import flow, get_client

from blocks.machines.local import LocalMachine
from blocks.models import Instance, InstanceStatus
from flows.run_folder import RunFolder, this_run_id
from flows.streaming.log_shipper import LogShipper
from flows.tasks.stream import RemoteTraining, _mirror, _until_size
from trainer.config import TrainingJob


@flow(name="shipping", persist_result=False)
async def ship(source: Path, result: Path) -> None:
    """Ship until the file SOURCE.done appears and every line is with Prefect."""
    run = RunFolder.of_this_run()
    result.with_suffix(".run").write_text(str(this_run_id()))
    async with get_client() as client:
        shipper = LogShipper(client, this_run_id(), run)
        helpers = [
            asyncio.create_task(_mirror(training_in(source.parent, run), source.name, run.log)),
            asyncio.create_task(shipper.run()),
        ]
        while not source.with_suffix(".done").exists():
            await asyncio.sleep(0.2)
            for helper in helpers:
                if helper.done():
                    helper.result()
        await _until_size(run.log, source.stat().st_size)  # noqa: ASYNC240 - a microsecond
        await shipper.finish()
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)


def training_in(folder: Path, run: RunFolder) -> RemoteTraining:
    """Return the view of a job directory that the mirror takes."""
    job = TrainingJob.model_validate(
        {
            "name": "noisy",
            "training": {
                "model": str(EXAMPLES / "tiny-llama"),
                "dataset": str(EXAMPLES / "quickstart.jsonl"),
            },
        }
    )
    where = Instance(
        provider="local",
        id="noisy",
        name="noisy",
        status=InstanceStatus.RUNNING,
        workspace=str(folder),
    )
    return RemoteTraining(job, where, LocalMachine(), run, python=sys.executable, at_home=True)


def main(source: str, result: str) -> None:
    """Run the flow and write its cost."""
    cpu, began = time.process_time(), time.monotonic()
    asyncio.run(ship(Path(source), Path(result)))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    record = {
        "peak_kib": usage.ru_maxrss,
        "cpu": time.process_time() - cpu,
        "wall": time.monotonic() - began,
        "torch": "torch" in sys.modules,
    }
    Path(result).write_text(json.dumps(record))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
