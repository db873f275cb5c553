"""Secrets in Prefect's Secret blocks."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import httpx

from trainer.contract.errors import ConfigError, ConnectionLost


def fetch(place: str, name: str) -> str:
    """Return what a Secret block holds; blocking.

    Args:
        place: the block's name.
        name: how errors call the secret.

    Raises:
        ConfigError: there is no such block.
        ConnectionLost: Prefect does not answer.
    """
    # Two seconds, for those who keep secrets there.
    from prefect.blocks.system import Secret

    async def load() -> Any:
        block: Any = await Secret.aload(place)
        return block.get()

    try:
        # A thread of its own, because the caller's may have an event loop.
        with ThreadPoolExecutor(1) as pool:
            value = pool.submit(copy_context().run, asyncio.run, load()).result()
    except ValueError as error:  # what Prefect raises for a document that does not exist
        raise ConfigError(
            f"{name} = secret://prefect/{place}: there is no Secret block of this name.",
            "Save one in Prefect's UI under Blocks.",
        ) from error
    except httpx.HTTPError as error:
        raise ConnectionLost(
            f"{name} = secret://prefect/{place}: Prefect does not answer ({type(error).__name__}).",
            "Check PREFECT_API_URL.",
        ) from error
    return value if isinstance(value, str) else str(value)
