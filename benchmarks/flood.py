"""Write a log as a noisy trainer would: `flood.py FILE LINES_PER_SECOND SECONDS`. See bench_logs.

Every line begins with its number and the time at which it was written, in seconds since the epoch.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

TICKS = 50  # writes per second


def main(file: str, rate: int, seconds: float) -> None:
    """Append the lines at an even pace; a late tick writes what it missed."""
    written, total = 0, round(rate * seconds)
    began = time.monotonic()
    with Path(file).open("ab", buffering=0) as stream:
        while written < total:
            due = min(total, int((time.monotonic() - began) * rate))
            now = time.time()
            lines = (
                f"{number} {now:.4f} step {number}/{total}  loss 2.3456  lr 2.00e-04  grad 1.234\n"
                for number in range(written, due)
            )
            stream.write("".join(lines).encode())
            written = due
            time.sleep(1 / TICKS)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
