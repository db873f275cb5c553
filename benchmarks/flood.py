"""Write a log as a noisy trainer would: `flood.py FILE LINES_PER_SECOND SECONDS [monotonic]`.

Every line begins with its number and the time at which it was written, in seconds since the epoch,
or by this computer's monotonic clock. See bench_logs and bench_remote_logs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

TICKS = 50  # writes per second


def main(file: str, rate: int, seconds: float, clock: Callable[[], float]) -> None:
    """Append the lines at an even pace; a late tick writes what it missed."""
    written, total = 0, round(rate * seconds)
    began = time.monotonic()
    with Path(file).open("ab", buffering=0) as stream:
        while written < total:
            due = min(total, int((time.monotonic() - began) * rate))
            now = clock()
            lines = (
                f"{number} {now:.4f} step {number}/{total}  loss 2.3456  lr 2.00e-04  grad 1.234\n"
                for number in range(written, due)
            )
            stream.write("".join(lines).encode())
            written = due
            time.sleep(1 / TICKS)


if __name__ == "__main__":
    chosen = time.monotonic if "monotonic" in sys.argv[4:] else time.time
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), chosen)
