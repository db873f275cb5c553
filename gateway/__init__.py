"""The ways in: the command line. Nothing here imports torch, and little imports Prefect early."""

import os
import sys
from pathlib import Path


def _forget_working_folder() -> None:
    """Import nothing from the folder in which the command was started.

    Python puts it first on the path for `python -m`, and a `random.py` in it would be run.
    """
    ours = str(Path(__file__).resolve().parents[1])
    here = os.path.realpath(".")
    # Our own packages may be in that folder, when the command runs in a clone: that entry stays.
    sys.path[:] = [
        p for p in sys.path if os.path.realpath(p) != here or os.path.realpath(p) == ours
    ]


_forget_working_folder()  # before the first import that could find something there
