"""Imports are left out of the search for garbage, and garbage is found all the same."""

import subprocess
import sys

SCRIPT = """
import atexit, gc, weakref
from trainer.contract.garbage import USUAL, leave_out_imports, search_seldom
class Node: pass
atexit.register(lambda: print("at the end", gc.get_freeze_count() > frozen))
leave_out_imports()
print("unasked", gc.get_freeze_count() == 0)
search_seldom()
print("seldom", gc.get_threshold() > USUAL and gc.isenabled())
leave_out_imports()
frozen, made = gc.get_freeze_count(), [[] for _ in range(1000)]
print("left out", frozen > 0, gc.get_threshold() == USUAL)
leave_out_imports()
print("once", gc.get_freeze_count() == frozen)
node = Node(); node.itself = node
seen = weakref.ref(node); del node
gc.collect()
print("found", seen() is None)
"""


def test_garbage_is_found_though_imports_are_left_out_and_at_the_end_nothing_is_searched():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.splitlines() == [
        "unasked True",
        "seldom True",
        "left out True True",
        "once True",
        "found True",
        "at the end True",
    ]
