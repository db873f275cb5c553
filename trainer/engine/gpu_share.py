"""Our own trainer keeps to its share of a GPU by itself: beyond it, memory runs out as on a smaller GPU."""

from __future__ import annotations

from trainer.contract.files import read_json
from trainer.contract.gpu_locks import read_allocation
from trainer.contract.job_directory import JobDirectory

CONTEXT_GB = 0.5  # of CUDA itself, and of the libraries, beside what torch allocates
GIB = 1 << 30


def keep_to_share(directory: JobDirectory) -> float | None:
    """Have torch allocate no more than the job's share allows; return that in GiB, None: no share.

    What needs more fails with CUDA's own error, and the supervisor starts again with a smaller
    batch, before anybody else on the GPU is hurt.
    """
    share = read_allocation(read_json(directory.gpus)).share_gb
    if share is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    most = max(share - CONTEXT_GB, share / 2)
    whole = torch.cuda.get_device_properties(0).total_memory / GIB
    torch.cuda.set_per_process_memory_fraction(min(1.0, most / whole), 0)
    return most
