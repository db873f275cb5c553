"""The C library's memory, kept from step to step."""

from __future__ import annotations

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT = 2**30  # bytes that may stay with the process after they were freed
LARGEST = 32 * 2**20  # the highest that glibc takes; larger blocks come from the system each time


def keep_freed_memory() -> None:
    """Make each step reuse the memory that the one before freed, for this whole process.

    glibc gives a large part of it back to the system, which hands it out again page by page, each
    of them zeroed: about a twentieth of the training time on a CPU. Nothing is done without glibc,
    or where MALLOC_ variables are set. See mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    libc = ctypes.CDLL(None)
    # Setting either also switches off the dynamic thresholds of glibc, so set both.
    libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
    libc.mallopt(M_TRIM_THRESHOLD, KEPT)
