"""What a lost machine leaves where it can still be read: its last checkpoint, and the end of its log."""

from __future__ import annotations

import asyncio

from blocks.models import Instance
from blocks.registry import load_provider
from flows.logger import logger
from flows.run_folder import RunFolder
from flows.streaming.checkpoint_mirror import CheckpointMirror
from flows.streaming.file_mirror import fetch_rest
from trainer.config import TrainingJob
from trainer.contract.errors import OrchestratorError

FETCH_SECONDS = 1800.0  # the next machine is hired afterwards


async def fetch_left(job: TrainingJob, run: RunFolder, instance: Instance) -> None:
    """Bring home what a lost machine saved last, where its provider keeps its files.

    Args:
        job: the job.
        run: its run.
        instance: the machine, or the first of its attempt; nothing trains there any more.
    """
    provider = await load_provider(instance.provider)
    if not (provider.keeps_files and instance.workspace):
        return
    try:
        async with (
            asyncio.timeout(FETCH_SECONDS),
            provider.workplace(instance, compress=job.ssh_compression) as workplace,
        ):
            # The log first: the metrics up to the checkpoint belong to it.
            mirrors = (run.log, run.metrics, run.events)
            await fetch_rest(
                workplace, {mirror: await workplace.size(mirror.name) for mirror in mirrors}
            )
            await CheckpointMirror(workplace, run.checkpoints).sync()
    except (OrchestratorError, OSError, TimeoutError) as error:
        logger().warning("what %s left is not fetched: %s", instance.id, error)
