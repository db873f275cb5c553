"""How often, after which errors and after how long a job of a batch is tried again."""

from __future__ import annotations

import difflib
import json
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from trainer.config.settings import Settings
from trainer.contract.errors import Action, OrchestratorError, family

LONGEST = 3600.0  # seconds between two tries, however many there were


def _known(name: str) -> str:
    errors = family(OrchestratorError)
    if name not in errors:
        close = difflib.get_close_matches(name, errors, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(errors))}"
        raise ValueError(f"is not an error of a job; {hint}")
    return name


ErrorName = Annotated[str, AfterValidator(_known)]


class Retries(Settings):
    """When a job that failed is tried again; it goes on from its newest checkpoint."""

    max: int = Field(default=2, ge=0, le=1000)
    """How often."""
    backoff_seconds: float = Field(default=60.0, ge=0)
    """How long it waits before the first time; each further wait is twice as long, an hour at most."""
    errors: list[ErrorName] = Field(default_factory=list)
    """After which errors, such as OutOfMemory; a name stands for all of its kind. []: after those that
    may pass by themselves, such as MachineLost, and never after a mistake in the job."""

    @classmethod
    def from_short(cls, value: Any) -> Any:
        """Return a number of retries as settings; anything else as it is."""
        return {"max": value} if isinstance(value, int) and not isinstance(value, bool) else value

    @classmethod
    def of_label(cls, label: Any) -> Retries | None:
        """Return what a run's label says; None where there is none that can be read."""
        try:
            return cls.model_validate(json.loads(label)) if label else None
        except (TypeError, ValueError):
            return None

    def as_label(self) -> str:
        """Return it as a text that a label can hold."""
        return json.dumps(self.model_dump(exclude_defaults=True))

    def seconds_until(self, error: OrchestratorError, tried: int) -> float | None:
        """Return how long to wait before the job is tried again; None: it is not.

        Args:
            error: by which it failed.
            tried: how often it was tried again before.
        """
        if tried >= self.max or not self._covers(error):
            return None
        return float(min(LONGEST, self.backoff_seconds * 2.0 ** min(tried, 30)))

    def _covers(self, error: OrchestratorError) -> bool:
        if not self.errors:
            return error.action is not Action.STOP
        return not {kind.__name__ for kind in type(error).__mro__}.isdisjoint(self.errors)
