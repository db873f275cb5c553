"""Spare a process the search for garbage among what it imported. Standard library only.

torch, transformers and Prefect are hundreds of thousands of objects that stay until the end. Python
searches them again and again while they come, whenever a library asks for it, and once more at the
end: a third to a half of all the time that a short process of ours took.
"""

from __future__ import annotations

import atexit
import gc

NEW_OBJECTS = 50_000
"""So many more are made before Python looks for garbage."""
USUAL = gc.get_threshold()


def search_seldom() -> None:
    """Look for garbage seldom in this process, and not at all at its end; call it at the start."""
    gc.set_threshold(NEW_OBJECTS, 10, 10)
    atexit.register(gc.freeze)


def leave_out_imports() -> None:
    """Leave what is there out of every later search, and search as often as Python usually does.

    Call it when all that is large is imported. Only the first call after `search_seldom` does anything.
    """
    if gc.get_threshold() != USUAL:
        gc.freeze()
        gc.set_threshold(*USUAL)
