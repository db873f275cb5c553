"""Where the flows' own words go: the run's log in Prefect, or the process's log outside of a run."""

from __future__ import annotations

import logging
from typing import Any

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger


def logger() -> logging.Logger | logging.LoggerAdapter[Any]:
    """Return the logger of the flow or task run that calls; the process's own outside of one."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("training_orchestrator")
