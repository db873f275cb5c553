"""Work on the gateway's database, as the metrics store does it: a whole transaction at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine

BUSY_SECONDS = 30  # that another writer of SQLite is waited for

T = TypeVar("T")


class WholeTransactions:
    """Runs functions that take a connection, each in a transaction of its own.

    SQLite works in a thread: its asynchronous driver goes there and back four times a statement,
    which takes longer than the statements. PostgreSQL waits on the network, and works in the loop.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._here: Engine | None = None
        if engine.dialect.name == "sqlite":
            url = engine.url.set(drivername="sqlite+pysqlite")
            self._here = create_engine(url, connect_args={"timeout": BUSY_SECONDS})

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` returns, committed.

        On SQLite work that writes must write before it reads: its lock is waited for only then.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: nothing of it is committed.
        """
        if self._here is None:
            async with self._engine.begin() as connection:
                return await connection.run_sync(work)
        return await asyncio.to_thread(_in_transaction, self._here, work)

    async def close(self) -> None:
        """Close the connections of our own. The engine is its maker's to dispose of."""
        if self._here is not None:
            await asyncio.to_thread(self._here.dispose)


def _in_transaction(engine: Engine, work: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return work(connection)
