"""The work pools and their queues, by name. Nothing here imports Prefect."""

from __future__ import annotations

POOL_TYPE = "training"
"""The type of the worker that executes many runs in one process; see `deployments.training_worker`."""
LOCAL_POOL = "local-gpu"
CLOUD_POOL = "cloud"
POOLS = {
    LOCAL_POOL: "Training on the computer of its worker, on GPUs or the CPU. Start: trainctl worker",
    CLOUD_POOL: "Training on rented machines, and reconcile. Start: trainctl worker",
}
"""Work pools, and what each is for."""
QUEUES = {"high": 1, "default": 2, "low": 3}
"""Work queues of every pool and their priorities; 1 goes first."""
