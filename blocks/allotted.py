"""Which GPUs of this computer a worker has given to a run, where a worker decides that."""

from __future__ import annotations

from contextvars import ContextVar

from trainer.contract.gpu_locks import Allocation

allotted: ContextVar[Allocation | None] = ContextVar(
    "the GPUs that this run may have", default=None
)
"""Set around a run; None: any that nobody has. A share is asked for by `Allocation.share_gb`."""
