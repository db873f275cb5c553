"""What the processes that train one job agree on. One alone agrees with itself, at no cost.

It goes over a process group of its own, on the CPU and with much patience: who waits here waits for
another to read the data or to write a checkpoint, which may take long. What hangs is the
supervisor's to find. The group of the gradients has little patience; see `trainer.contract.world`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from trainer.contract.world import TIMEOUT_VARIABLE, own_rank

PATIENCE = timedelta(days=7)  # torch has no "for ever" here

T = TypeVar("T")


@contextmanager
def process_group() -> Iterator[None]:
    """Join the group of all ranks, and leave it if all went well."""
    rank = own_rank()
    if rank.world_size == 1:
        yield
        return
    import torch
    from torch import distributed

    cuda = torch.cuda.is_available()
    if cuda:
        # Before the group: NCCL takes the current device, and all ranks would share the first GPU.
        torch.cuda.set_device(rank.local_rank)
    # Made by hand for its patience: init_process_group gives its own store the timeout of the
    # collectives, too short for a machine that is still loading its model.
    store = distributed.TCPStore(  # type: ignore[attr-defined] # torch's own listing lacks it
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        rank.world_size,
        is_master=rank.is_first,
        timeout=PATIENCE,
    )
    distributed.init_process_group(
        "cuda:nccl,cpu:gloo" if cuda else "gloo",
        store=store,
        rank=rank.rank,
        world_size=rank.world_size,
        timeout=timedelta(seconds=float(os.environ[TIMEOUT_VARIABLE])),
    )
    _group()
    yield
    # Not in a finally: after a failure the others hang in a collective, and leaving the group would
    # wait for them. The process ends instead.
    _group.cache_clear()
    of_machine.cache_clear()
    distributed.destroy_process_group()


def wait_for_all() -> None:
    """Return once every process has come here."""
    if own_rank().world_size > 1:
        from torch import distributed

        distributed.barrier(_group())


@contextmanager
def first_here_first() -> Iterator[None]:
    """Let the first process of each machine do something before the others there do it."""
    first = own_rank().is_first_here
    if not first:
        wait_for_all()
    yield
    if first:
        wait_for_all()


def highest(values: Sequence[int]) -> list[int]:
    """Return the highest of what the processes have, one by one."""
    return _reduced(values, "MAX")


def summed(values: Sequence[int]) -> list[int]:
    """Return the sums of what the processes have, one by one."""
    return _reduced(values, "SUM")


def of_first(find: Callable[[], T]) -> T:
    """Return what the first process finds; the others do not look."""
    rank = own_rank()
    found = [find() if rank.is_first else None]
    if rank.world_size > 1:
        from torch import distributed

        distributed.broadcast_object_list(found, src=0, group=_group())
    return found[0]  # type: ignore[return-value] # the first one's is what was sent


def all_to_first(value: T) -> list[T]:
    """Return what every process has, by rank; nothing but to the first."""
    rank = own_rank()
    if rank.world_size == 1:
        return [value]
    from torch import distributed

    found: list[Any] | None = [None] * rank.world_size if rank.is_first else None
    distributed.gather_object(value, found, dst=0, group=_group())
    return found or []


def of_all() -> Any:
    """Return the group of all processes, for what has its own way of agreeing; None: this one alone."""
    return _group() if own_rank().world_size > 1 else None


@functools.cache
def of_machine() -> Any:
    """Return the same of the processes of this machine; all must ask for it at the same time first."""
    from torch import distributed

    own, _ = distributed.new_subgroups(  # type: ignore[no-untyped-call] # torch is not typed here
        group_size=own_rank().local_world_size, backend="gloo", timeout=PATIENCE
    )
    return own


def _reduced(values: Sequence[int], how: str) -> list[int]:
    if own_rank().world_size == 1:
        return list(values)
    import torch
    from torch import distributed

    numbers = torch.tensor(values, dtype=torch.long)
    distributed.all_reduce(numbers, getattr(distributed.ReduceOp, how), group=_group())
    return [int(number) for number in numbers]


@functools.cache
def _group() -> Any:
    """Return the group of the agreements; all processes must ask for it at the same time first."""
    from torch import distributed

    return distributed.new_group(backend="gloo", timeout=PATIENCE)


def own_rows(trainer: Any, rows: int) -> int:
    """Return how many rows of this process's batch no other process has.

    The last batches are filled up with rows from the beginning, so that all processes have some.

    Args:
        trainer: of transformers, in an evaluation.
        rows: of the batch.
    """
    state = trainer.accelerator.gradient_state
    if trainer.args.world_size == 1 or not state.end_of_dataloader or state.remainder <= 0:
        return rows
    left: int = state.remainder - trainer.accelerator.process_index * rows
    return min(rows, max(0, left))
