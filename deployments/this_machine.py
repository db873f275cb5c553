"""This computer as a machine of a pool: its GPUs, who has them, and what they are."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Collection, Mapping

import psutil

from blocks.providers.local.gpu import GIB, Gpu
from blocks.providers.local.gpus import inventory, visible
from flows.scheduling.pool import PoolGpu, PoolMachine

Given = Mapping[str, Collection[str]]
"""The UUIDs of the GPUs that runs of the pool have, by the runs' ids."""


async def this_machine(given: Given, *, limit: int | None = None) -> PoolMachine:
    """Return this computer as it is now.

    Args:
        given: what runs of the pool have. Whoever else has a GPU has taken it.
        limit: how many jobs may train on the CPU at once; None: as many as there are GPUs, or one.
    """
    found = await asyncio.to_thread(inventory)
    gpus = visible(found, os.environ.get("CUDA_VISIBLE_DEVICES"))
    return PoolMachine(
        name=socket.gethostname(),
        gpus=tuple(_gpu(gpu, given) for gpu in gpus if gpu.uuid),
        ram_gb=psutil.virtual_memory().total / GIB,
        cpu_jobs=limit or max(1, len(gpus)),
        total=len(gpus),
    )


async def no_machine(given: Given) -> PoolMachine:
    """Return what a pool of jobs on rented machines takes of this computer: nothing."""
    return PoolMachine(name=socket.gethostname(), gpus=())


def _gpu(gpu: Gpu, given: Given) -> PoolGpu:
    return PoolGpu(
        uuid=gpu.uuid,
        vram_gb=gpu.total_gb or gpu.free_gb,
        kind=gpu.name,
        index=gpu.index,
        island=gpu.island,
        taken=_taken(gpu, given),
    )


def _taken(gpu: Gpu, given: Given) -> str:
    """Return why no further job can have a GPU; "" where nobody has it but jobs of the pool."""
    if gpu.sick:
        return f"out of use: {gpu.sick}"
    others = [one for one in gpu.holders if gpu.uuid not in given.get(one.run, ())]
    if others:
        return f"taken by {'; '.join(map(str, others))}"
    if gpu.foreign:
        return f"in use by {'; '.join(map(str, gpu.foreign))}"
    return ""
