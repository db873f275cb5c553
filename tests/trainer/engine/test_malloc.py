"""Memory that a step frees is there for the next one."""

import os
import platform
import subprocess
import sys

import pytest

STEPS = """
import ctypes, resource
from trainer.engine.malloc import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
size = 8 * 2**20

def step():
    blocks = [libc.malloc(size) for _ in range(8)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks:
        libc.free(block)

keep_freed_memory()
step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own")
def test_a_step_takes_what_the_step_before_freed():
    def pages(**environment: str) -> int:
        run = subprocess.run(
            [sys.executable, "-c", STEPS],
            env=os.environ | environment,
            capture_output=True,
            check=True,
        )
        return int(run.stdout)

    asked_otherwise = pages(MALLOC_TRIM_THRESHOLD_="1")  # by a user, whose word counts

    assert asked_otherwise > 1000
    assert pages() < asked_otherwise / 20
