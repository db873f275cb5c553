"""Host the flows on a Prefect server: its deployments, and workers on this computer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from prefect.client.orchestration import PrefectClient

from deployments import worker
from deployments.automations import deploy_automations
from deployments.deploy import deploy as deploy_to
from deployments.pools import LOCAL_POOL, POOL_TYPE, POOLS
from gateway.exits import say
from gateway.prefect.full_client import call, connect
from trainer.contract.errors import ConfigError


def deploy(automations: Sequence[Path] = ()) -> None:
    """Bring pools, queues and deployments to the configured server, or to our own.

    Args:
        automations: files, or folders of files, with automations to bring there too.

    Raises:
        ConfigError: an automation is not there, or is not as it should be.
    """
    # Before anything is changed on the server.
    for path in automations:
        if not path.exists():
            raise ConfigError(
                f"--automations = {str(path)!r}: there is no such file or folder.",
                "Name a folder of automations, or one file, such as those in examples/automations.",
            )
    say(f"deploying to {connect()}")

    async def all_of_it(client: PrefectClient) -> None:
        await deploy_to(client, say)
        for path in automations:  # last: they name deployments
            await deploy_automations(client, path, say)

    call(all_of_it)


def work(pools: Sequence[str], limit: int | None) -> None:
    """Serve work pools until a signal ends it.

    Args:
        pools: their names; empty: all of ours.
        limit: how many jobs may train on this computer at once; None: as the pool's queue decides,
            or one per GPU, or one.

    Raises:
        ConfigError: a pool is not on the server.
    """
    # Each once: two workers of one process must not serve the same pool.
    names = list(dict.fromkeys(pools)) or list(POOLS)
    url = connect()
    types = call(lambda client: _types(client, names, url))
    served = {name: _served(name, types[name], limit) for name in names}
    facts = [f"{name} ({_facts(pool, types[name])})" for name, pool in served.items()]
    say(f"serving {url}: {', '.join(facts)}")
    asyncio.run(worker.serve(served, say))


def _served(name: str, kind: str, limit: int | None) -> worker.Served:
    if kind == POOL_TYPE:  # its queue knows the GPUs
        return worker.Served(limit)
    # Jobs of the local pool share the GPUs of this computer. Those of the cloud pool train
    # elsewhere, and are limited only if the user says so.
    most = limit or (worker.gpu_count() if name == LOCAL_POOL else None)
    return worker.Served(most, in_one_process=False)


def _facts(pool: worker.Served, kind: str) -> str:
    if pool.in_one_process:
        return f"{pool.limit} at once at most" if pool.limit else "as its queue decides"
    return f"{f'{pool.limit} at once' if pool.limit else 'any number'}, type {kind}"


async def _types(client: PrefectClient, names: Sequence[str], url: str) -> dict[str, str]:
    """Return the types of the pools that are served, by name."""
    there = {pool.name: pool.type for pool in await client.read_work_pools()}
    missing = [name for name in names if name not in there]
    if missing:
        raise ConfigError(
            f"The Prefect server at {url} has no work pool {', '.join(map(repr, missing))}.",
            "Make the pools and deployments: trainctl deploy",
        )
    return there
