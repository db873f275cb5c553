"""A step of a flow: a Prefect task whose named failures show as one sentence."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Failed

from trainer.errors import OrchestratorError

P = ParamSpec("P")
R = TypeVar("R")


def step(function: Callable[P, Awaitable[R]], *, name: str | None = None) -> Task[P, Awaitable[R]]:
    """Make `function` a task. Its errors of ours reach the caller; Prefect logs no stack for them.

    Nothing is cached: what a step did is found on the machine, not in a store.
    """

    @functools.wraps(function)
    async def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await function(*args, **kwargs)
        except OrchestratorError as error:
            message = f"{type(error).__name__}: {error.message}"
            return Failed(message=message, data=error)  # type: ignore[return-value] # Prefect raises it

    return task(name=name, cache_policy=NO_CACHE, persist_result=False)(run)
