"""One HTTP client for each account and event loop: its connections are kept while they are used."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from functools import cache
from weakref import WeakKeyDictionary

import httpx

Kept = tuple[httpx.AsyncClient, AsyncGenerator[None, None]]
# By loop, because a connection belongs to one, and every command and flow run has a loop of its own.
_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Kept]] = WeakKeyDictionary()


async def client_of(account: str) -> httpx.AsyncClient:
    """Return the client of an account in this event loop; it is closed when the loop ends."""
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    if account not in clients:
        client = new_client()
        clients[account] = client, _open(client)
        await anext(clients[account][1])
    return clients[account][0]


def new_client(timeout: float = 5.0) -> httpx.AsyncClient:
    """Return a client that keeps no connection but those of its caller.

    Args:
        timeout: seconds to connect, and of silence afterwards; for calls that give none.
    """
    return httpx.AsyncClient(verify=_tls(), timeout=timeout)


async def _open(client: httpx.AsyncClient) -> AsyncGenerator[None, None]:
    """Hold a client open until asyncio ends its generators, which it does before a loop closes."""
    try:
        yield
    finally:
        await client.aclose()


@cache
def _tls() -> ssl.SSLContext:
    """Return one context for all calls: making it takes longer than most of them."""
    return httpx.create_ssl_context()
