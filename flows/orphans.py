"""Since when machines have had no run: in a file, because each pass of reconcile may be another process."""

from __future__ import annotations

import time

from blocks.home import home
from blocks.marks import Mark
from flows.full_disk import save_anyway
from flows.locks import briefly_locked
from trainer.contract.files import read_json

FILE = "orphans.json"


def since(mark: Mark) -> float:
    """Return the Unix time at which a machine was first seen without a run; now if it was not."""
    return float((read_json(home() / FILE) or {}).get(str(mark), time.time()))


def note(mark: Mark, moment: float | None) -> None:
    """Note since when a machine has had no run; None: it has one, or is gone."""
    with briefly_locked(home() / "orphans.lock"):
        noted = read_json(home() / FILE) or {}
        now = {name: since for name, since in noted.items() if name != str(mark)}
        if moment is not None:
            now[str(mark)] = moment
        if now != noted:
            save_anyway(home() / FILE, now)
