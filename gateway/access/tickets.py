"""Tickets for WebSockets: addresses are logged, so what stands in one counts once, for 30 seconds."""

from __future__ import annotations

import json
import secrets
import time

from sqlalchemy import delete, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.access.callers import Caller, everything
from gateway.access.signing import sha256
from gateway.database.engine import writing
from gateway.database.tables import tickets

SECONDS = 30.0


async def make_ticket(engine: AsyncEngine, caller: Caller) -> str:
    """Return a ticket that lets in once whoever has it, as this caller."""
    ticket, now = f"tt_{secrets.token_urlsafe(32)}", time.time()
    values = {name: getattr(caller, name) for name in ("name", "project", "key_id", "session_id")}
    row = {
        "sha256": sha256(ticket),
        "caller": json.dumps({**values, "scopes": sorted(caller.scopes)}),
        "expires": now + SECONDS,
    }
    async with writing(engine) as connection:
        await connection.execute(delete(tickets).where(tickets.c.expires < now))
        await connection.execute(insert(tickets).values(row))
    return ticket


async def redeem(engine: AsyncEngine, ticket: str) -> Caller | None:
    """Return whose ticket it was, which counts no more; None: it did not count."""
    query = delete(tickets).where(tickets.c.sha256 == sha256(ticket))
    async with writing(engine) as connection:
        row = (
            await connection.execute(query.returning(tickets.c.caller, tickets.c.expires))
        ).one_or_none()
    if row is None or row.expires < time.time():
        return None
    found = json.loads(row.caller)
    return Caller(**found | {"scopes": everything(found["scopes"])})
