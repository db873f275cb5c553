"""How long a decision about a queue of 10,000 jobs takes, read from a real Prefect server.

    first <seconds>    all is read, as after the start of a worker
    again <seconds>    only the news are read, as every second after that; the slowest of the rounds
    policy <seconds>   CPU time of `flows.scheduling.policy` alone
    server <seconds>   CPU time of Prefect's server for each decision but the first, news included

The jobs are copies of one that was submitted, put into the server's database: Prefect itself would take
half an hour to take them. Between two decisions a job is submitted and another cancelled, as people do.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from common import Place, conclude, fail, options, place

if TYPE_CHECKING:
    from flows.scheduling.pool_queue import PoolQueue

JOBS = 10_000
GPUS = 8


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "", rounds=10, jobs=JOBS)
    count = min(given.jobs, 500) if given.quick else given.jobs
    with place() as here:
        here.prefect_server()
        found = asyncio.run(measured(here, count, given.rounds))
    first, again, policy, cpu, server = found
    print(f"first   {first:6.2f} s")
    print(
        f"again   {max(again):6.2f} s  ({min(again):.2f} to {max(again):.2f}), CPU {cpu:.2f} s each"
    )
    print(f"policy  {policy:6.3f} s")
    print(f"server  {server:6.2f} s")
    conclude("decision_policy", policy, "<=", 0.1)
    conclude("decision_with_reading", max(again), "<=", 2.0)


async def measured(
    here: Place, count: int, rounds: int
) -> tuple[float, list[float], float, float, float]:
    """Return the seconds of the first decision, of later ones, of the policy, and of CPU each, here and there."""
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.client.schemas.objects import FlowRun
    from prefect.states import Cancelled, Scheduled

    from flows.scheduling.labels import of_submit
    from flows.scheduling.pool import ExplainWait, PoolGpu, PoolMachine, StartJob
    from flows.scheduling.pool_queue import PoolQueue
    from flows.shown import QUEUED
    from trainer.config import TrainingJob

    gpus = tuple(PoolGpu(uuid=f"GPU-{n}", vram_gb=80.0, kind="H100") for n in range(GPUS))
    machine = PoolMachine(name="host", gpus=gpus)

    async def look(_: object) -> PoolMachine:
        return machine

    job = TrainingJob.model_validate({"name": "a", "training": {"model": "m", "dataset": "d"}})
    async with get_client() as client:
        await client.create_work_pool(WorkPoolCreate(name="pool", type="process"))
        flow = await client.create_flow_from_name("train")
        deployment = await client.create_deployment(flow, "d", work_pool_name="pool")

        async def submit(name: str) -> FlowRun:
            return await client.create_flow_run_from_deployment(
                deployment,
                name=name,
                parameters={"job": job.model_dump(mode="json")},
                state=Scheduled(name=QUEUED),
                labels=of_submit(user="ada"),
            )

        template = await submit("template")
        multiply(here.folder / "prefect" / "prefect.db", str(template.id), count - 1)
        queue = PoolQueue(client, "pool", look)
        began = time.perf_counter()
        made = await queue.decide()
        first = time.perf_counter() - began
        if len(made) != count:
            fail(f"{len(made)} jobs of {count} were decided about")
        for one in made:
            if isinstance(one, StartJob):
                await queue.take(one)
        waiting = [one.job for one in made if isinstance(one, ExplainWait)]
        again, spent, theirs = [], time.process_time(), server_seconds()
        for number in range(rounds):
            await submit(f"new-{number}")
            gone = uuid.UUID(waiting.pop())
            await client.set_flow_run_state(gone, Cancelled(), force=True)
            began = time.perf_counter()
            made = await queue.decide()
            again.append(time.perf_counter() - began)
            await queue.tell(made)
        cpu = (time.process_time() - spent) / rounds
        server = (server_seconds() - theirs) / rounds
        return first, again, policy_seconds(queue), cpu, server


def server_seconds() -> float:
    """Return the CPU seconds that Prefect's server has used."""
    times = [
        process.cpu_times()
        for process in psutil.Process().children(recursive=True)
        if "server" in " ".join(process.cmdline())
    ]
    return sum(one.user + one.system for one in times)


def policy_seconds(queue: PoolQueue) -> float:
    """Return the CPU seconds of the policy alone, about what was read last."""
    assert queue.snapshot
    times = []
    for _ in range(5):
        began = time.process_time()
        queue.snapshot.decide()
        times.append(time.process_time() - began)
    return min(times)


def multiply(database: Path, run: str, count: int) -> None:
    """Copy a run with its state, each copy submitted at a time of its own in the last days."""
    draw = random.Random(0)  # noqa: S311 - no secret
    with sqlite3.connect(database, timeout=60) as connection:
        connection.row_factory = sqlite3.Row
        [its_run] = _rows(connection, "flow_run", "id", run)
        [its_state] = _rows(connection, "flow_run_state", "flow_run_id", run)
        runs, states = [], []
        for number in range(count):
            at = datetime.now(UTC) - timedelta(seconds=draw.random() * 2 * 86400)
            text = at.strftime("%Y-%m-%d %H:%M:%S.%f")
            id, state = str(uuid.uuid4()), str(uuid.uuid4())
            times = dict.fromkeys(("expected_start_time", "next_scheduled_start_time"), text)
            gpus = draw.choices((1, 2, 4, 8), (70, 15, 10, 5))[0]
            runs.append(
                its_run
                | times
                | {"id": id, "state_id": state, "name": f"job-{number}", "idempotency_key": id}
                | {
                    "parameters": its_run["parameters"].replace(
                        '"gpu_count": null', f'"gpu_count": {gpus}'
                    )
                }
                | {"labels": its_run["labels"].replace('"ada"', f'"user{number % 7}"')}
            )
            states.append(its_state | {"id": state, "flow_run_id": id})
        _insert(connection, "flow_run", runs)
        _insert(connection, "flow_run_state", states)


def _rows(
    connection: sqlite3.Connection, table: str, name: str, value: str
) -> list[dict[str, Any]]:
    found = connection.execute(f"SELECT * FROM {table} WHERE {name} = ?", (value,))  # noqa: S608
    return [dict(row) for row in found]


def _insert(connection: sqlite3.Connection, table: str, rows: list[dict[str, Any]]) -> None:
    names = list(rows[0])
    marks = ", ".join(f":{name}" for name in names)
    connection.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", rows)  # noqa: S608


if __name__ == "__main__":
    main()
