"""Start or attach to the training, and carry its log, metrics and state home as they appear."""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from prefect import get_client, get_run_logger

from blocks.machines.base import Machine
from blocks.models import Instance
from blocks.registry import load_provider
from flows.board import Board
from flows.log_shipper import LogShipper
from flows.outcome import announce
from flows.run_folder import RunFolder, this_run_id
from flows.tasks.step import step
from flows.wishes import watch_wishes
from trainer.config import TrainingJob
from trainer.errors import MachineLost, TrainingFailed
from trainer.job_directory import Desired, JobState, Status, parse_status

STATUS_SECONDS = 0.5  # between two looks at status.json
SILENCE_SECONDS = 10.0  # without a change of status.json: ask whether anybody still works there
MAX_REVIVALS = 3  # supervisors started anew after one vanished without leaving a word


@functools.partial(step, name="train")
async def stream(job: TrainingJob, instance: dict[str, Any]) -> dict[str, Any]:
    """Follow the training until it is at rest, and return its status.

    When this returns, every byte of log and metrics is here and every line of the log is with
    Prefect. When it is cancelled the training is asked to save and stop.
    """
    where = Instance.from_dict(instance)
    async with load_provider(where.provider).machine(where) as machine:
        training = RemoteTraining(job, where, machine)
        await training.start_or_attach()
        try:
            return await _follow(training)
        except asyncio.CancelledError:
            await asyncio.shield(training.ask(Desired.STOP, "cancelled"))
            raise


async def _follow(training: RemoteTraining) -> dict[str, Any]:
    run = RunFolder.of_this_run()
    async with get_client() as client:
        run_id = this_run_id()
        shipper = LogShipper(client, run_id, run)
        board = Board(client, run_id, run.metrics)
        helpers = [
            asyncio.create_task(_mirror(training, "train.log", run.log)),
            asyncio.create_task(_mirror(training, "metrics.jsonl", run.metrics)),
            asyncio.create_task(shipper.run()),
            asyncio.create_task(board.run()),
            asyncio.create_task(watch_wishes(client, run_id, training.ask)),
        ]
        watching = asyncio.create_task(training.until_rest())
        try:
            # A helper ends only by failing: nobody shall miss that.
            done, _ = await asyncio.wait({watching, *helpers}, return_when="FIRST_COMPLETED")
            for finished in done - {watching}:
                finished.result()
            status, sizes = await watching
            await _until_size(run.log, sizes["train_bytes"])
            await _until_size(run.metrics, sizes["metrics_bytes"])
            await shipper.finish()
            await board.finish()
            return status
        finally:
            for helper in (watching, *helpers):
                helper.cancel()
            await asyncio.gather(watching, *helpers, return_exceptions=True)


async def _mirror(training: RemoteTraining, name: str, local: Path) -> None:
    """Append to the mirror what the file on the machine has beyond it."""
    with local.open("ab", buffering=0) as stream:
        source = training.machine.follow(f"{training.workspace}/{name}", stream.tell())
        async with aclosing(source) as chunks:
            async for chunk in chunks:
                stream.write(chunk)


async def _until_size(path: Path, size: int) -> None:
    while path.stat().st_size < size:  # noqa: ASYNC110, ASYNC240 - the mirror grows by another task
        await asyncio.sleep(0.02)


class RemoteTraining:
    """One job directory on a machine, seen through the machine's verbs."""

    def __init__(self, job: TrainingJob, instance: Instance, machine: Machine) -> None:
        self.job = job
        self.instance = instance
        self.machine = machine
        self.workspace = instance.workspace

    async def start_or_attach(self) -> None:
        """Start the supervisor; when one is at work already, that one is followed."""
        if await self.machine.read(f"{self.workspace}/job.json") is None:
            await self._write("job.json", self._job_file())
        if not (await self.examine())["alive"]:
            await self.ask(Desired.RUN, "")
        answer = await self._trainer("--detach")
        verb = "attached to" if answer["already_running"] else "started"
        get_run_logger().info("%s the training in %s", verb, self.workspace)

    async def ask(self, desired: Desired, reason: str) -> None:
        """Write the wish that trainer and supervisor obey."""
        grace = self.job.limits.stop_grace_seconds
        await self._write(
            "control.json", {"desired": desired, "grace_seconds": grace, "reason": reason}
        )

    async def examine(self) -> dict[str, Any]:
        """Return status, whether anybody works there, and the sizes of log and metrics."""
        return await self._trainer("--status")

    async def until_rest(self) -> tuple[dict[str, Any], dict[str, int]]:
        """Wait until the job is at rest; return its status, and the sizes of log and metrics.

        Raises:
            TrainingFailed: supervisor and trainer vanish again and again without a word.
        """
        revivals = 0
        seen: bytes | None = None
        silent = 0.0
        running = False
        while True:
            content = await self.machine.read(f"{self.workspace}/status.json")
            status = _parse(content)
            if status.state is JobState.RUNNING and not running:
                running = True
                await announce(JobState.RUNNING)
            silent = silent + STATUS_SECONDS if content == seen else 0.0
            seen = content
            if status.state.at_rest or silent >= SILENCE_SECONDS:
                silent = 0.0
                facts = await self.examine()
                if not facts["alive"]:
                    if JobState(facts["state"]).at_rest:
                        return facts, facts
                    revivals += 1
                    if revivals > MAX_REVIVALS:
                        raise TrainingFailed("The supervisor vanished again and again.")
                    get_run_logger().warning("nobody works in %s; starting anew", self.workspace)
                    await self._trainer("--detach")
            await asyncio.sleep(STATUS_SECONDS)

    def _job_file(self) -> dict[str, Any]:
        limits = self.job.limits.model_dump()
        return {
            "version": 1,
            "run_id": str(this_run_id()),
            "name": self.job.name,
            "config": self.job.training.model_dump(mode="json"),
            "limits": limits,
        }

    async def _write(self, name: str, value: dict[str, Any]) -> None:
        await self.machine.write(f"{self.workspace}/{name}", json.dumps(value, indent=1).encode())

    async def _trainer(self, verb: str) -> dict[str, Any]:
        """Call the supervisor's command line on the machine and return the JSON it prints."""
        result = await self.machine.run(
            [sys.executable, "-m", "trainer", verb, self.workspace],
            env=self._environment(),
            cwd=self.workspace,
            timeout=60,
        )
        with suppress(ValueError, IndexError):
            return dict(json.loads(result.stdout.strip().splitlines()[-1]))
        raise MachineLost(
            f"'python -m trainer {verb}' ended with exit code {result.exit_code} on "
            f"{self.instance.id}: {result.stderr.strip()[-300:]}"
        )

    def _environment(self) -> dict[str, str]:
        threads = self.job.resources.cpu_threads
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(self.instance.gpu_ids),
            **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
        }


def _parse(content: bytes | None) -> Status:
    try:
        record = json.loads(content) if content else None
    except ValueError:
        record = None
    return parse_status(record)
