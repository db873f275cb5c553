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

from prefect import flow, get_client

from blocks.machines.local import LocalMachine
from blocks.task_scope import TaskScope
from blocks.workplaces.machine import MachineWorkplace
from flows.run_folder import RunFolder, this_run_id
from flows.streaming.file_mirror import mirror_file, until_size
from flows.streaming.log_shipper import LogShipper


@flow(name="shipping", persist_result=False)
async def ship(source: Path, result: Path) -> None:
    """Ship until the file SOURCE.done appears and every line is with Prefect."""
    run = RunFolder.of_this_run()
    result.with_suffix(".run").write_text(str(this_run_id()))
    place = MachineWorkplace(LocalMachine(), str(source.parent))
    async with get_client() as client:
        shipper = LogShipper(client, this_run_id(), run)
        async with TaskScope() as scope:
            scope.start(mirror_file(place, source.name, run.log))
            scope.start(shipper.run())
            await scope.result_of(_all_shipped(source, run, shipper))


async def _all_shipped(source: Path, run: RunFolder, shipper: LogShipper) -> None:
    while not source.with_suffix(".done").exists():  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.2)
    await until_size(run.log, source.stat().st_size)  # noqa: ASYNC240 - a microsecond
    await shipper.finish()


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
