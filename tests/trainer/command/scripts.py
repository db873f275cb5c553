"""Somebody else's trainer, small and without torch, in a job directory under the real supervisor."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.stand_in import stand_in
from tests.trainer.supervised import Supervised


def foreign(root: Path, *words: str, **settings: Any) -> Supervised:
    """Return a job whose trainer is the stand-in; `limits` and `command` may be given."""
    limits = settings.pop("limits", {})
    job = Supervised(root, "")
    job.write_job(config=stand_in(root.parent, *words, **settings), limits=limits)
    return job


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]
