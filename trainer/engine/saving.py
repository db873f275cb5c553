"""Saving while training goes on: training waits for a copy in memory, a thread does the rest.

transformers, TRL and PEFT save as they always do. Only their last step, which writes tensors into
a file, is put off: the tensors are copied, and the copies are written, synced and hashed beside
the next steps.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil
import torch
from torch.utils._pytree import tree_leaves, tree_map

Write = Callable[[], object]

WRITERS = (
    ("torch", "save"),
    ("safetensors.torch", "save_file"),
    ("transformers.modeling_utils", "safe_save_file"),
    ("peft.peft_model", "safe_save_file"),
)
"""The functions that write tensors, by the module that calls them; any other writes at once."""
SHARE = 0.5  # of the free memory, which a copy may take
COPYING_THREADS = 4
CGROUP = Path("/sys/fs/cgroup")


class Saves:
    """What is still to be done about the last save. One at a time, in order."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._last: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the save; an error already under way takes precedence over the save's."""
        with suppress(*([Exception] if error else [])):
            self.wait()

    def begin(self, work: Callable[[], None]) -> None:
        """Do `work` in the background, after waiting for the save before."""
        self.wait()
        self._last = self._thread.submit(work)

    def check(self) -> None:
        """Raise what a save failed with, if one has."""
        if self._last is not None and self._last.done():
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is left to be done; raise what the save failed with."""
        last, self._last = self._last, None
        if last is not None:
            last.result()


@contextmanager
def writes_put_off(budget: int) -> Iterator[list[Write]]:
    """Yield the list that takes up the writes of tensors asked for meanwhile, each to be called.

    Args:
        budget: bytes that the copies may take. What is larger is written at once, and so is what
            holds anything but plain tensors, numbers and words.
    """
    writes: list[Write] = []
    left = budget

    def put_off(write: Callable[..., object], content: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal left
        size = size_in_memory(content)
        if size is None or size > left:
            write(content, *args, **kwargs)
        else:
            left -= size
            writes.append(functools.partial(write, copy_in_memory(content), *args, **kwargs))

    # Patched where they are called from: "from x import save_file" binds the name at import.
    modules = [(importlib.import_module(module), name) for module, name in WRITERS]
    # All are looked up before any is replaced: two of these names may be one function.
    originals = [getattr(module, name) for module, name in modules]
    for (module, name), write in zip(modules, originals, strict=True):
        setattr(module, name, functools.partial(put_off, write))
    try:
        yield writes
    finally:
        for (module, name), write in zip(modules, originals, strict=True):
            setattr(module, name, write)


def all_finite(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether no element of any tensor is NaN or infinite."""
    # NaN and infinity survive a sum, which takes a twentieth of the time of looking at each element.
    # One synchronisation with the GPU for all tensors, instead of one for each.
    sums = torch.stack([tensor.sum(dtype=torch.float32) for tensor in tensors])
    if torch.isfinite(sums).all():
        return True
    # A sum may overflow though all that it adds is finite.
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def size_in_memory(content: Any) -> int | None:
    """Return the bytes of the tensors in nested containers; None: not all of it can be copied."""
    size = 0
    for leaf in tree_leaves(content):
        if type(leaf) in {torch.Tensor, torch.nn.Parameter} and leaf.layout is torch.strided:
            size += leaf.nbytes
        # An object may refer to tensors that training goes on changing; it is written at once.
        elif not isinstance(leaf, bool | int | float | str | bytes | None | np.ndarray):
            return None
    return size


def copy_in_memory(content: Any) -> Any:
    """Return nested containers with copies of their tensors in this computer's memory."""
    # By id: what occurs twice, such as a code book, is saved once.
    tensors = {id(leaf): leaf for leaf in tree_leaves(content) if isinstance(leaf, torch.Tensor)}
    # One core alone does not use what the memory can carry; torch copies without the GIL.
    with ThreadPoolExecutor(COPYING_THREADS) as pool:
        copies = dict(zip(tensors, pool.map(_copy_of, tensors.values()), strict=True))

    def copied(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return copies[id(leaf)]
        return leaf.copy() if isinstance(leaf, np.ndarray) else leaf

    return tree_map(copied, content)


def _copy_of(tensor: torch.Tensor) -> torch.Tensor:
    # copy=True: without it a tensor on the CPU would be shared with the training.
    copy = tensor.detach().to("cpu", copy=True)
    copy.__dict__.update(tensor.__dict__)  # bitsandbytes marks its tensors so
    return copy


def memory_for_copies() -> int:
    """Return how many bytes copies may take now."""
    return int(SHARE * min(psutil.virtual_memory().available, _left_in_container()))


def _left_in_container() -> float:
    """Return the bytes that the container's limit leaves (cgroup v2); infinity without a limit."""
    try:
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        facts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        # Without a limit memory.max holds the word max, which the except clause takes for infinity.
        # https://docs.kernel.org/admin-guide/cgroup-v2.html
        return limit - used + int(facts["inactive_file"])
    except (OSError, ValueError, KeyError):
        return float("inf")
