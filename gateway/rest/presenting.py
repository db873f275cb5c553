"""What a request shows of who sent it: addresses, headers, the cookie."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from fastapi.requests import HTTPConnection

from gateway.access.gate import Presented
from gateway.access.refusals import Unauthenticated
from gateway.access.settings import AccessSettings

COOKIE = "to_session"
OUR_NAMES = {"localhost", "127.0.0.1", "::1"}
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
TICKET = "ticket"
"""The parameter of a WebSocket's address."""


def presented_by(connection: HTTPConnection, settings: AccessSettings) -> Presented:
    """Return what a request shows of who sent it.

    Raises:
        Unauthenticated: its Authorization is of another kind than ours.
    """
    peer = connection.client.host if connection.client else ""
    trusted = is_trusted(peer, settings)
    user = connection.headers.get(settings.proxy_user_header) if settings.proxy_user_header else ""
    is_socket = connection.scope["type"] == "websocket"
    return Presented(
        address=address_of(connection, settings),
        is_here=is_here(connection),
        tokens=_tokens(connection),
        ticket=connection.query_params.get(TICKET) if is_socket else None,
        cookie=connection.cookies.get(COOKIE),
        proxy_user=user or None if trusted else None,
    )


def address_of(connection: HTTPConnection, settings: AccessSettings) -> str:
    """Return the caller's address: behind trusted proxies, what the first of them saw."""
    peer = connection.client.host if connection.client else ""
    if not is_trusted(peer, settings):
        return peer
    passed = ",".join(connection.headers.getlist("x-forwarded-for")).split(",")
    for address in reversed([one.strip() for one in passed if one.strip()]):
        if not is_trusted(address, settings):
            return address
    return peer


def is_trusted(address: str, settings: AccessSettings) -> bool:
    """Whether an address is one of our proxies'."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in settings.proxies)


def is_here(connection: HTTPConnection) -> bool:
    """Whether a request came from this computer, and to a name that means this computer.

    A page of somebody else's can let a browser here ask us, under a name of its own that leads to
    127.0.0.1; and a proxy on this computer passes on what others ask.
    """
    peer = connection.client.host if connection.client else ""
    try:
        if not ipaddress.ip_address(peer).is_loopback:
            return False
    except ValueError:
        return False
    if any(name in connection.headers for name in FORWARDED):
        return False
    return host_of(connection) in OUR_NAMES


def host_of(connection: HTTPConnection) -> str:
    """Return the name by which the service was asked, without the port; empty if it is none."""
    host = connection.headers.get("host", "")
    try:
        parts = urlsplit(f"//{host}")
    except ValueError:
        return ""
    # Nothing else may stand there, such as a user's name before an @.
    return parts.hostname or "" if parts.netloc == host and "@" not in host else ""


def _tokens(connection: HTTPConnection) -> frozenset[str]:
    found = {connection.headers.get("x-api-key", "").strip()}
    given = connection.headers.get("authorization", "").strip()
    if given:
        kind, _, token = given.partition(" ")
        if kind.lower() != "bearer" or not token.strip():
            raise Unauthenticated("The header Authorization is not 'Bearer KEY'.")
        found.add(token.strip())
    return frozenset(found - {""})
