"""Our own trainer keeps to its share of a GPU by itself: beyond it, memory runs out as on a smaller GPU."""

from __future__ import annotations

import os

from trainer.contract.files import read_json
from trainer.contract.gpu_locks import read_allocation
from trainer.contract.job_directory import JobDirectory

CONTEXT_GB = 0.5  # of CUDA itself, and of the libraries, beside what torch allocates
GIB = 1 << 30
PART = "GPU_MEMORY_FRACTION"
"""The variable that says which part of its GPU a job may have at most, from 0 to 1."""


def keep_to_share(directory: JobDirectory) -> float | None:
    """Have torch allocate no more than the job's share allows; return that in GiB, None: no share.

    What needs more fails with CUDA's own error, and the supervisor starts again with a smaller
    batch, before anybody else on the GPU is hurt.
    """
    share = read_allocation(read_json(directory.gpus)).share_gb
    part = allowed_part()
    if share is None and part is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    whole = torch.cuda.get_device_properties(0).total_memory / GIB
    most = whole * (part or 1.0)
    if share is not None:
        most = min(most, max(share - CONTEXT_GB, share / 2))
    torch.cuda.set_per_process_memory_fraction(min(1.0, most / whole), 0)
    return most


def allowed_part() -> float | None:
    """Return the part of a GPU that the environment allows; None: all of it."""
    try:
        part = float(os.environ.get(PART, ""))
    except ValueError:
        return None
    return part if 0 < part < 1 else None
