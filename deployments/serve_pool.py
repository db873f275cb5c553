"""Serve a pool of the type `training` for `trainctl worker`: `python -P -m deployments.serve_pool …`.

Apart from the worker, which Prefect imports by its own name too.
"""

from __future__ import annotations

import asyncio
import sys

from deployments.flow_process import die_with
from deployments.training_worker import TrainingWorker
from trainer.contract.garbage import search_seldom


def main(pool: str, most: str, supervisor: str) -> None:
    """Serve a pool for `trainctl worker`."""
    search_seldom()
    die_with(int(supervisor))
    # A pool that this made would lack the queues and the description of `deploy`.
    worker = TrainingWorker(pool, limit=int(most) or None, create_pool_if_not_found=False)
    asyncio.run(worker.start(printer=lambda text: print(text, flush=True)))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
