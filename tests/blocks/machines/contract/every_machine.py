"""What the tests of every machine share besides fixtures."""

import random
from contextlib import suppress
from pathlib import Path

MACHINES = {
    "local": "at_home",
    "mailbox": "by_mailbox",
    "signed mailbox": "by_signed_mailbox",
    "ssh": "over_ssh",
}


def dice(seed):
    return random.Random(seed)  # noqa: S311 - not for secrets


def pids_in(folder):
    return [int(path.read_text()) for path in folder.glob("*.pid") if path.read_text()]


def any_process_with(path):
    """Whether a process has a path in its arguments."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(path).encode() in entry.read_bytes():
                return True
    return False


# Three generations, each noting its process id, each deaf to SIGTERM, all sleeping.
FAMILY = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
generation = 0
while generation < 2 and os.fork() == 0:
    generation += 1
path = f"{sys.argv[1]}/{generation}"
with open(path, "w") as stream:
    stream.write(str(os.getpid()))
os.rename(path, path + ".pid")
time.sleep(600)
"""
