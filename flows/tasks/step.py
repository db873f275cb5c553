"""A step of a flow: a Prefect task that shows our own errors as one sentence, without a stack."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

from flows.streaming.requests import CancelAsked
from trainer.contract.errors import OrchestratorError

P = ParamSpec("P")
R = TypeVar("R")


def step(function: Callable[P, Awaitable[R]], *, name: str | None = None) -> Task[P, Awaitable[R]]:
    """Make `function` a task.

    Nothing is cached: what a step did is found on the machine, not in a store.
    """
    # Prefect's default policy makes a cache key of all inputs; a result from its cache could name
    # a machine that is gone by now.
    return task(name=name, cache_policy=NO_CACHE, persist_result=False)(function)


def without_stack(record: logging.LogRecord) -> bool:
    """Take the stack off Prefect's record of an error that says all there is to say."""
    if record.exc_info and isinstance(record.exc_info[1], OrchestratorError | CancelAsked):
        record.exc_info = None
    return True


# On the logger, because Prefect's task engine logs the exception there by itself.
logging.getLogger("prefect.task_runs").addFilter(without_stack)
