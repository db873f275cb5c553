"""What the tests of a machine over SSH share besides fixtures."""

import asyncio
import sys
import time


async def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.02)
    return value


def python(code, *arguments):
    return [sys.executable, "-c", code, *map(str, arguments)]
