"""Host the flows on a Prefect server: its deployments, and workers on this computer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from prefect.client.orchestration import PrefectClient

from deployments import worker
from deployments.deploy import deploy as deploy_to
from deployments.pools import LOCAL_POOL, POOLS
from gateway.exits import say
from gateway.prefect.full_client import call, connect
from trainer.contract.errors import ConfigError


def deploy() -> None:
    """Bring pools, queues and deployments to the configured server, or to our own."""
    say(f"deploying to {connect()}")
    call(lambda client: deploy_to(client, say))


def work(pools: Sequence[str], limit: int | None) -> None:
    """Serve work pools until a signal ends it.

    Args:
        pools: their names; empty: all of ours.
        limit: how many jobs may train on this computer at once; None: one per GPU, or one.

    Raises:
        ConfigError: a pool is not on the server.
    """
    # Each once: two workers of one process must not serve the same pool.
    names = list(dict.fromkeys(pools)) or list(POOLS)
    most = limit or worker.gpu_count()
    url = connect()
    call(lambda client: _check_pools(client, names, url))
    # Jobs of the local pool share the GPUs of this computer. Those of the cloud pool train
    # elsewhere, and are limited only if the user says so.
    limits = {name: most if name == LOCAL_POOL or limit else None for name in names}
    facts = [
        f"{name} ({f'{most} at once' if most else 'any number'})" for name, most in limits.items()
    ]
    say(f"serving {url}: {', '.join(facts)}")
    asyncio.run(worker.serve(limits, say))


async def _check_pools(client: PrefectClient, names: Sequence[str], url: str) -> None:
    there = {pool.name for pool in await client.read_work_pools()}
    missing = [name for name in names if name not in there]
    if missing:
        raise ConfigError(
            f"The Prefect server at {url} has no work pool {', '.join(map(repr, missing))}.",
            "Make the pools and deployments: trainctl deploy",
        )
