"""A reward function that answers with sense; nonsense from one is reported, and never learnt."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from trainer.contract.errors import CodeError
from trainer.engine.failures import in_own_code

FIELD = "training.reward_functions"
Rewards = list[float | None]
"""One an answer; None: the function has nothing to say of it."""
Reward = Callable[..., Sequence[float | None]]


class CheckedReward:
    """A reward function that answers with as many finite numbers, or None, as there are answers."""

    def __init__(self, function: Callable[..., Any], name: str, path: Path) -> None:
        self.__name__ = name  # TRL's metrics are called by it
        self._function = function
        self._path = path
        self._wanted = _parameters(function)

    def __call__(self, **columns: Any) -> Rewards:
        """Call the function with the columns that it takes.

        Raises:
            CodeError: it raised an error, or returned anything but such numbers.
        """
        count = len(columns["completions"])
        if self._wanted is not None:
            # Without **kwargs a function would fail on the first column that it does not know.
            columns = {name: value for name, value in columns.items() if name in self._wanted}
        with in_own_code(self._path, FIELD):
            rewards = self._function(**columns)
            if inspect.isawaitable(rewards):
                rewards = asyncio.run(_awaited(rewards))
        return checked(rewards, count, f"{self.__name__} in {self._path}")


def checked(rewards: Any, count: int, who: str) -> Rewards:
    """Return what a function has returned as plain numbers.

    Raises:
        CodeError: it is anything but `count` finite numbers, or None.
    """
    if problem := _problem(rewards, count):
        raise CodeError(
            f"{FIELD}: {who} returned {problem}.",
            "Return a list with one finite number for each completion, or None to abstain.",
        )
    # A tensor or a numpy array is fine as well, and leaves here as plain numbers.
    return [None if reward is None else float(reward) for reward in rewards]


async def _awaited(rewards: Awaitable[Any]) -> Any:
    return await rewards


def _parameters(function: Callable[..., Any]) -> set[str] | None:
    """Return the names that a function takes, None where it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def _problem(rewards: Any, count: int) -> str:
    """Return what is wrong with a function's answer, in words; empty where nothing is."""
    if not hasattr(rewards, "__len__") or isinstance(rewards, str | dict):
        return f"a {type(rewards).__name__} instead of a list"
    if len(rewards) != count:
        return f"{len(rewards)} rewards for {count} completions"
    for i, reward in enumerate(rewards):
        if reward is None:
            continue
        try:
            number = float(reward)
        except (TypeError, ValueError):
            return f"{reward!r} as reward {i + 1}"
        # One NaN would spread through the advantages into every weight.
        if not math.isfinite(number):
            return f"{number} as reward {i + 1}"
    return ""
