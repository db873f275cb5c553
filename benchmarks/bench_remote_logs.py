"""A log on a machine over SSH: how late its lines are here, and how fast a long one comes.

latency   A process on the machine writes 50 lines a second for half a minute, each with the time
          of its writing; machine and consumer share one clock. `SshMachine.follow` and
          `ssh host tail -f`, at the same time and of the same file, are read by consumers of the
          same kind. Goal: of ours, 99 of 100 lines are here within 0.25 s.
speed     A log of 1,000,000 lines of 100 bytes, there already, through `SshMachine.follow`, and
          through `ssh host tail -c +1`, in turns, each into a SHA-256 that must be right.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shlex
import statistics
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

from common import Place, conclude, fail, median, options, place, spread
from ssh_machine import Remote, remote_machine

from blocks.machines.base import FOLLOW_CHUNK

LATENCY_GOAL = 0.25  # seconds
SPEED_GOAL = 0.8
LINES_PER_SECOND = 50
LINE_BYTES = 100
HERE = Path(__file__).parent
Follow = Callable[[Remote, Path], AsyncGenerator[bytes, None]]


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "", seconds=30.0, lines=1_000_000)
    seconds, lines = (5.0, 100_000) if given.quick else (given.seconds, given.lines)
    with place() as here, remote_machine(here) as remote:
        tails = [latencies(here, remote, seconds, number) for number in range(given.rounds)]
        speeds = compared_speeds(remote, lines, given.rounds)
    for name, values in speeds.items():
        print(f"speed {name:4} {spread(values, 'MB/s')}")
    conclude("remote_log_latency_p99", median(tails) / LATENCY_GOAL, "<=", 1.0)
    ratio = median(speeds["ours"]) / median(speeds["ssh"])
    conclude("remote_log_speed", ratio, ">=", SPEED_GOAL)


async def ours(remote: Remote, file: Path) -> AsyncGenerator[bytes, None]:
    """Follow by the product."""
    async with remote.connect() as machine, aclosing(machine.follow(str(file))) as chunks:
        async for chunk in chunks:
            yield chunk


async def by_ssh(remote: Remote, file: Path, how: str = "-f ") -> AsyncGenerator[bytes, None]:
    """Follow by OpenSSH's ssh and tail, without a shell's or a pseudo terminal's doing."""
    command = remote.ssh(f"exec tail {how}-c +1 {file}")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    try:
        while chunk := await process.stdout.read(FOLLOW_CHUNK):
            yield chunk
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def latencies(here: Place, remote: Remote, seconds: float, number: int) -> float:
    """Print how late both ways bring the lines, and return the 99th percentile of ours."""
    file = remote.home / f"log-{number}"
    file.touch()
    count = round(LINES_PER_SECOND * seconds)
    words = [sys.executable, HERE / "flood.py", file, LINES_PER_SECOND, seconds, "monotonic"]
    flood = here.start(remote.ssh(shlex.join(map(str, words))), "flood.log")
    lags = asyncio.run(both_ways(remote, file, count))
    flood.finished()
    for name, values in lags.items():
        p99 = statistics.quantiles(values, n=100)[98]
        print(
            f"round {number + 1}: latency {name:4} p50 {1000 * median(values):6.1f} ms, "
            f"p99 {1000 * p99:6.1f} ms, max {1000 * max(values):6.1f} ms",
            flush=True,
        )
    return statistics.quantiles(lags["ours"], n=100)[98]


async def both_ways(remote: Remote, file: Path, count: int) -> dict[str, list[float]]:
    """Return the seconds that each line took, by our way and by ssh."""
    ways: dict[str, Follow] = {"ours": ours, "ssh": by_ssh}
    lags = await asyncio.gather(*(timed(way(remote, file), count) for way in ways.values()))
    return dict(zip(ways, lags, strict=True))


async def timed(source: AsyncGenerator[bytes, None], count: int) -> list[float]:
    """Return how long each of the lines was under way."""
    lags: list[float] = []
    rest = b""
    async with aclosing(source) as chunks:
        async for chunk in chunks:
            now = time.monotonic()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                number, written, *_ = line.split(b" ", 2)
                if int(number) != len(lags):
                    fail(f"line {number.decode()} came where {len(lags)} was due")
                lags.append(now - float(written))
            if len(lags) == count:
                break
    return lags


def compared_speeds(remote: Remote, lines: int, rounds: int) -> dict[str, list[float]]:
    """Return megabytes per second, by our way and by ssh."""
    file = remote.home / "long"
    digest = long_log(file, lines)
    ways: dict[str, Follow] = {"ours": ours, "ssh": lambda *words: by_ssh(*words, how="")}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
            began = time.monotonic()
            if asyncio.run(hashed(ways[name](remote, file), lines * LINE_BYTES)) != digest:
                fail(f"{name}: the log that came is not the log that was written")
            speeds[name].append(lines * LINE_BYTES / 1e6 / (time.monotonic() - began))
            print(f"round {number + 1}: speed {name:4} {speeds[name][-1]:6.1f} MB/s", flush=True)
    return speeds


def long_log(file: Path, lines: int) -> str:
    """Write a log that does not repeat itself; return its SHA-256."""
    digest = hashlib.sha256()
    with file.open("wb") as stream:
        for number in range(lines):
            begin = f"{number} step {number}/{lines} loss "
            line = begin + os.urandom(LINE_BYTES).hex()[: LINE_BYTES - len(begin) - 1] + "\n"
            digest.update(line.encode())
            stream.write(line.encode())
    return digest.hexdigest()


async def hashed(source: AsyncIterator[bytes], size: int) -> str:
    """Return the SHA-256 of so many bytes."""
    digest, received = hashlib.sha256(), 0
    async for chunk in source:
        digest.update(chunk)
        received += len(chunk)
        if received >= size:
            break
    return digest.hexdigest()


if __name__ == "__main__":
    main()
