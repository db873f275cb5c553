"""How every Python process of ours starts, so that it imports none of the user's files by mistake.

A `trainer.py` or `json.py` in the folder where somebody works must not take the place of ours.
The user's own commands are started as they always were. Standard library only.
"""

from __future__ import annotations

import os
import sys

PATHS = "PYTHONPATH"
GIVEN_PATHS = "TRAINING_ORCHESTRATOR_GIVEN_PYTHONPATH"
"""The user's own PYTHONPATH, while ours is another one."""
SAFE_PATH = "PYTHONSAFEPATH"


def own_python(*words: str, python: str = sys.executable) -> list[str]:
    """Return the command that runs code of ours: a module (-m), or a text (-c).

    Args:
        words: the interpreter's arguments.
        python: the interpreter, 3.11 or newer.
    """
    # -P (3.11) keeps the working folder, or that of the script, off sys.path; -I would also ignore
    # PYTHONPATH, by which some machines find their packages.
    # https://docs.python.org/3/using/cmdline.html#cmdoption-P
    return [python, "-P", *words]


def forget_working_folder() -> None:
    """Take the working folder out of PYTHONPATH, for this process and those it starts.

    An entry that is empty means that folder, and `PYTHONPATH=$PYTHONPATH:/opt/x` makes one by
    accident.
    """
    given = os.environ.get(PATHS, "")
    kept = [entry for entry in given.split(os.pathsep) if entry not in {"", "."}]
    if given and os.pathsep.join(kept) != given:
        # setdefault: of nested processes of ours, the outermost saw the user's own value.
        os.environ.setdefault(GIVEN_PATHS, given)
        os.environ[PATHS] = os.pathsep.join(kept)


def users_variables() -> dict[str, str]:
    """Return the variables that put the user's own commands back where they were before us."""
    given = os.environ.get(GIVEN_PATHS)
    return {
        **({PATHS: given} if given else {}),
        **({SAFE_PATH: ""} if os.environ.get(SAFE_PATH) else {}),  # empty is as good as not set
    }
