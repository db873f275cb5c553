"""By which signals a job is asked to end. Standard library only.

A scheduler of a cluster sends SIGTERM to every process of a job when it is about to take the machine
back. There it is the notice, which `trainer.supervision.notice` hears in its own way: a job that took it
for a request would come to rest as if a person had stopped it.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

VARIABLE = "TRAINING_ORCHESTRATOR_SIGTERM"
NOTICE = "notice"


def requests() -> frozenset[signal.Signals]:
    """Return the signals that ask a process of a job to save and end."""
    if _is_notice():
        return frozenset({signal.SIGINT})
    return frozenset({signal.SIGTERM, signal.SIGINT})


def ending() -> signal.Signals:
    """Return the signal by which a supervisor asks the trainer to end."""
    return signal.SIGINT if _is_notice() else signal.SIGTERM


def pass_over_notice() -> None:
    """Let SIGTERM do nothing in this process, where it is only a notice."""
    if _is_notice():
        # Not SIG_IGN: a program that this one becomes, or starts, would inherit that.
        signal.signal(signal.SIGTERM, _nothing)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    pass


def _is_notice() -> bool:
    return os.environ.get(VARIABLE) == NOTICE
