"""Where the flows log: the run's log in Prefect, or the process's log outside of a run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
# What Prefect warns of whenever a process ends before its queue is sent; it waits for that anyway.
SENDING = "Still processing items"


class OneLine(logging.Handler):
    """Writes warnings and errors, each as one line.

    Not how a run ended, which others write, and not that Prefect still sends something at the end.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        # Prefect logs there how a run or task failed, and the terminal shows that by itself.
        said_anyway = record.levelno > logging.WARNING and record.name in RUN_LOGGERS
        try:
            first = record.getMessage().strip().partition("\n")[0]
        except Exception:  # noqa: BLE001 - a mistake in somebody's log call, which ends nothing
            self.handleError(record)
            return
        if not said_anyway and not first.startswith(SENDING):
            # A full disk must not turn a warning into the end of the run.
            with suppress(OSError):
                self._write(f"{record.levelname.lower()}: {first}")


def logger() -> logging.Logger | logging.LoggerAdapter[Any]:
    """Return the logger of the flow or task run that calls; the process's own outside of one."""
    # Whoever only looks on has not imported Prefect, and is in no run.
    if "prefect" in sys.modules:
        from prefect.exceptions import MissingContextError
        from prefect.logging import get_run_logger

        with suppress(MissingContextError):
            return get_run_logger()
    return logging.getLogger("training_orchestrator")
