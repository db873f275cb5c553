"""Tasks beside others: none outlives what it was started for.

An `asyncio.TaskGroup` waits for its tasks and wraps what they raise; a `TaskScope` ends its tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any, Self, TypeVar

T = TypeVar("T")


class TaskScope:
    """Tasks that run beside the body of an `async with`; however that ends, they end with it.

    The error of a task in the background is raised by `result_of`, and is dropped where that is
    not called.
    """

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await ended(self._tasks)

    def start(self, work: Awaitable[T]) -> asyncio.Task[T]:
        """Start `work` beside the body and return its task."""
        task = asyncio.ensure_future(work)
        self._tasks.append(task)
        return task

    async def result_of(self, work: Awaitable[T]) -> T:
        """Return what `work` returns, unless a task of this scope fails before, or with it.

        Raises:
            Exception: what that task failed with.
        """
        asked = self.start(work)
        pending = set(self._tasks)
        while not asked.done():
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            # A task that ended well is no news. One that failed is, even if `work` ended in the
            # same turn of the loop: what it returned may rest on what failed.
            for task in self._tasks:
                if task.done() and task is not asked:
                    task.result()
        return asked.result()


async def all_of(calls: Iterable[Awaitable[T]]) -> list[T]:
    """Return what the calls return, in their order; the first that fails ends the others.

    Raises:
        Exception: what that call raised; by then none of the others goes on.
    """
    async with TaskScope() as scope:
        return await asyncio.gather(*map(scope.start, calls))


async def ended(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks and wait until none of them goes on; what they raise by then is passed over.

    Being cancelled meanwhile does not shorten the wait.
    """
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    # gather and not wait: when it is cancelled itself it still waits for every child before it
    # raises (https://docs.python.org/3/library/asyncio-task.html#asyncio.gather).
    await asyncio.gather(*tasks, return_exceptions=True)
