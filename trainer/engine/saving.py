"""Saving while training goes on: threads copy what is saved, and write the copies.

transformers, TRL and PEFT save as they always do. Only their last step, which writes tensors into
a file, is put off: the tensors are copied, and the copies are written, synced and hashed beside
the next steps. Weights and the optimizer's state are copied beside the next forward and backward
pass, which only read them; before they change, training waits for the copies.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil
import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

Write = Callable[[], object]

WRITERS = (
    ("torch", "save"),
    ("safetensors.torch", "save_file"),
    ("transformers.modeling_utils", "safe_save_file"),
    ("peft.peft_model", "safe_save_file"),
)
"""The functions that write tensors, by the module that calls them; any other writes at once."""
SHARE = 0.5  # of the free memory, which a copy may take
COPYING_THREADS = (
    4  # one core alone does not use what the memory can carry; torch has let the GIL go
)
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


class Copies:
    """Copies in this computer's memory, of which some are made while training goes on."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(COPYING_THREADS, thread_name_prefix="copy")
        self._asked: list[tuple[torch.Tensor, Future[torch.Tensor]]] = []
        self._under_way: list[Future[None]] = []

    def of(self, content: Any, steady: Collection[int]) -> Callable[[], Any]:
        """Return what gives a copy of nested containers, once it is there.

        Args:
            content: holds tensors, arrays, numbers and words. What is not steady is copied when
                this returns, and later changes do not matter.
            steady: addresses of memory that nobody changes before `start`, and then `wait`, have
                returned.
        """
        leaves, layout = tree_flatten(content)
        # By id: what occurs twice, such as a code book, is saved once.
        tensors = {id(leaf): leaf for leaf in leaves if isinstance(leaf, torch.Tensor)}
        copies: dict[int, Any] = {
            key: Future() for key, tensor in tensors.items() if _address(tensor) in steady
        }
        self._asked += [(tensors[key], copy) for key, copy in copies.items()]
        now = [key for key in tensors if key not in copies]
        copies |= zip(now, self._pool.map(_copy_of, [tensors[key] for key in now]), strict=True)
        arrays = (leaf.copy() if isinstance(leaf, np.ndarray) else leaf for leaf in leaves)
        held = [copies.get(id(leaf), leaf) for leaf in arrays]

        def copied() -> Any:
            found = [leaf.result() if isinstance(leaf, Future) else leaf for leaf in held]
            return tree_unflatten(found, layout)

        return copied

    def start(self) -> None:
        """Begin to copy what is steady; not before, for the cores have enough to do."""
        asked, self._asked = self._asked, []
        self._under_way += [self._pool.submit(_copy_into, *one) for one in asked]

    def forget(self) -> None:
        """Copy nothing of what was asked for and not begun."""
        self._asked = []

    def wait(self) -> None:
        """Wait until everything is copied; raise what a copy failed with, such as lack of memory."""
        under_way, self._under_way = self._under_way, []
        for copy in under_way:
            copy.result()


def _copy_into(tensor: torch.Tensor, place: Future[torch.Tensor]) -> None:
    try:
        place.set_result(_copy_of(tensor))
    except BaseException as error:
        place.set_exception(error)  # whoever writes waits for it
        raise


def steady_memory(model: torch.nn.Module, optimizer: Any) -> set[int]:
    """Return the addresses of the memory that only the optimizer's next step changes.

    Others than PyTorch's own optimizers may change weights during the backward pass.
    """
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
    if not type(inner).__module__.startswith("torch.optim"):
        return set()
    state = tree_leaves(list(inner.state.values()))
    tensors = [leaf for leaf in state if isinstance(leaf, torch.Tensor)]
    if any(map(_changes_in_passing, model.modules())):
        return set()
    # Not the buffers, which a forward pass may change.
    return {_address(tensor) for tensor in [*model.parameters(), *tensors]} - {0}


def _changes_in_passing(module: torch.nn.Module) -> bool:
    """Whether a forward pass changes weights: PEFT's OFT with `coft`, tables with a largest norm."""
    return bool(getattr(module, "coft", False) or getattr(module, "max_norm", None))


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0


@contextmanager
def writes_put_off(
    budget: int, copies: Copies, steady: Collection[int] = ()
) -> Iterator[list[Write]]:
    """Yield the list that takes up the writes of tensors asked for meanwhile, each to be called.

    Args:
        budget: bytes that the copies may take. What is larger is written at once, and so is what
            holds anything but plain tensors, numbers and words.
        copies: makes them.
        steady: see `Copies.of`.
    """
    writes: list[Write] = []
    left = budget

    def put_off(write: Callable[..., object], content: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal left
        size = size_in_memory(content)
        # Without any budget even what takes no room is written at once: nobody does it later.
        if size is None or size >= left:
            write(content, *args, **kwargs)
        else:
            left -= size
            copied = copies.of(content, steady)
            writes.append(lambda: write(copied(), *args, **kwargs))

    # Patched where they are called from: "from x import save_file" binds the name at import.
    modules = [(importlib.import_module(module), name) for module, name in WRITERS]
    # All are looked up before any is replaced: two of these names may be one function.
    originals = [getattr(module, name) for module, name in modules]
    for (module, name), write in zip(modules, originals, strict=True):
        setattr(module, name, functools.partial(put_off, write))
    try:
        yield writes
        copies.start()
    finally:
        copies.forget()
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
