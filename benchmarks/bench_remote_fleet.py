"""Fifty jobs on fifty rented machines, all in one process: its memory, and whether any starves.

The provider is RunPod's local server; behind every pod is a real sshd. Fifty trainings do not fit
a small computer, so each job's `setup` puts stand_in.py in the place of the trainer on its machine:
it keeps to the job directory, and writes a line a second until all have run together for a minute.
All the rest is the product as it is: hiring, environment, upload, supervisor, lease, streams,
checkpoints, download, verification, teardown, Prefect.

This process reads the logs' mirrors at home ten times a second, and tells

memory      the peak of the process that runs the flows; Prefect's server and the machines apart
gaps        per job, the longest time between two of its lines here
lags        from the writing of a line until it is here

Every job must complete, every log be here and in Prefect byte for byte and line for line, and no
pod be left, or this fails. The computer is the bottleneck, so the gaps are an upper bound.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import time
from pathlib import Path
from uuid import UUID

import httpx
import psutil
from common import Place, Process, conclude, fail, median, options, place, wait_until

from blocks.marks import run_prefix
from tests.clouds.machines import Profile
from tests.clouds.runpod import RunPodCloud
from trainer.contract.tail import TailReader

MEMORY_GOAL = 1024.0  # MiB
GAP_GOAL = 10.0  # seconds
START_SECONDS = 420.0  # a job that fails before it trains would let the others wait for ever
LOOK_SECONDS = 0.1
PAGE = 200
HERE = Path(__file__).parent


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "", rounds=1, jobs=50, seconds=60.0)
    count, seconds = (6, 10.0) if given.quick else (given.jobs, given.seconds)
    with place() as here:
        url = here.prefect_server()
        fleets = [one_fleet(here, url, count, seconds, n) for n in range(given.rounds)]
    gaps, peaks = zip(*fleets, strict=True)
    conclude("remote_fleet_longest_gap", median(gaps) / GAP_GOAL, "<=", 1.0)
    conclude("remote_fleet_peak_memory", median(peaks) / MEMORY_GOAL, "<=", 1.0)


class Mirror:
    """The log of one run as it grows at home, and when each line came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tail = TailReader(path)
        self.written: list[float] = []
        self.came: list[float] = []

    def look(self) -> None:
        """Read what is new; lines of the trainer tell when they were written."""
        for lines in self._tail.chunks():
            now = time.monotonic()
            for words in map(bytes.split, lines):
                if words[2:3] == [b"step"]:
                    self.written.append(float(words[1]))
                    self.came.append(now)

    @property
    def longest_gap(self) -> float:
        """Seconds between two lines here."""
        return longest(self.came)

    @property
    def lags(self) -> list[float]:
        """Seconds that each line took."""
        return [came - at for at, came in zip(self.written, self.came, strict=True)]


def one_fleet(
    here: Place, url: str, count: int, seconds: float, number: int
) -> tuple[float, float]:
    """Run one fleet to its end; return the longest gap of any job, and the peak memory in MiB."""
    together = here.folder / f"together-{number}"
    together.mkdir()
    with RunPodCloud(here.folder / f"cloud-{number}") as cloud:
        cloud.profile = Profile(
            environment={"STAND_IN_TOGETHER": str(together), "STAND_IN_COUNT": str(count)}
        )
        result = here.folder / f"fleet-{number}.json"
        words = [sys.executable, HERE / "fleet.py", count, seconds, result]
        fleet = here.start(words, "fleet.log", **cloud.environ())
        mirrors = watched(here, cloud, fleet, result, together)
        fleet.finished()
        record = json.loads(result.read_text())
        check(cloud, url, mirrors, record)
    tell(mirrors, record)
    return max(mirror.longest_gap for mirror in mirrors), record["peak_mebibytes"]


def watched(
    here: Place, cloud: RunPodCloud, fleet: Process, result: Path, together: Path
) -> list[Mirror]:
    """Look at all mirrors until the fleet has come to its end."""
    began = time.monotonic()
    runs = result.with_suffix(".runs")
    ids = json.loads(
        wait_until(lambda: fleet.must_live() or (runs.exists() and runs.read_text()), 120)
    )
    mirrors = [Mirror(here.home / "runs" / run_id / "train.log") for run_id in ids]
    server = psutil.Process(next(p.pid for p in psutil.Process().children() if _serves(p)))
    cpu, all_train = sum(server.cpu_times()[:2]), 0.0
    while fleet.process.poll() is None:
        if cloud.errors:
            fail(f"the local cloud failed: {cloud.errors}")
        if not all_train and time.monotonic() - began > START_SECONDS:
            fail(f"not all train after {START_SECONDS:.0f} s: {len(list(together.iterdir()))}")
        for mirror in mirrors:
            mirror.look()
        if not all_train and len(list(together.iterdir())) == len(mirrors):
            all_train = time.monotonic()
            print(f"all train after         {all_train - began:.0f} s", flush=True)
        time.sleep(LOOK_SECONDS)
    for mirror in mirrors:
        mirror.look()
    spent = time.monotonic() - began
    share = 100 * (sum(server.cpu_times()[:2]) - cpu) / spent
    print(f"all are at rest after   {spent:.0f} s, load {os.getloadavg()[0]:.1f}")
    print(f"Prefect's server        {share:.0f} % of a core")
    return mirrors


def check(cloud: RunPodCloud, url: str, mirrors: list[Mirror], record: dict[str, object]) -> None:
    """End the benchmark when a job did not complete, a log is not whole, or a pod is left."""
    if record["unfinished"]:
        fail(f"not completed: {record['unfinished']}")
    if record["torch"] or cloud.alive():
        fail(f"torch imported: {record['torch']}; pods left: {cloud.alive()}")
    api = httpx.Client(base_url=url, timeout=60)
    for mirror in mirrors:
        run_id = mirror.path.parent.name
        pattern = f"*/home/.training-orchestrator/jobs/{run_prefix(UUID(run_id))}*/train.log"
        here = mirror.path.read_bytes()
        there = [path.read_bytes() for path in cloud.folder.glob(pattern)]
        if there != [here]:
            fail(f"{run_id}: the log here has {len(here)} bytes, there {list(map(len, there))}")
        if (lines := lines_in_prefect(api, run_id)) != here.decode().splitlines():
            fail(f"{run_id}: Prefect has {len(lines)} lines and not those of the log")


def lines_in_prefect(api: httpx.Client, run_id: str) -> list[str]:
    """Return the lines of a run's training log that Prefect has, in order."""
    lines: list[str] = []
    wanted = {"flow_run_id": {"any_": [run_id]}}
    for offset in itertools.count(step=PAGE):
        body = {"logs": wanted, "limit": PAGE, "offset": offset, "sort": "TIMESTAMP_ASC"}
        page = api.post("/logs/filter", json=body).raise_for_status().json()
        lines += [
            x for row in page if row["name"] == "train.log" for x in row["message"].split("\n")
        ]
        if len(page) < PAGE:
            return lines
    raise AssertionError


def tell(mirrors: list[Mirror], record: dict[str, float]) -> None:
    """Print the figures."""
    gaps = sorted(mirror.longest_gap for mirror in mirrors)
    lags = [lag for mirror in mirrors for lag in mirror.lags]
    own = max(longest(mirror.written) for mirror in mirrors)
    print(f"completed, logs whole   {len(mirrors)} jobs, {len(lags):,} lines")
    print(f"longest gap of a job    {spoken(gaps)}; of the writers themselves {own:.2f} s")
    print(f"lag of a line           {spoken(lags)}")
    share = 100 * record["cpu"] / record["wall"]
    print(
        f"the flows' process      {share:.0f} % of a core, peak {record['peak_mebibytes']:.0f} MiB"
    )


def longest(times: list[float]) -> float:
    """Return the longest time between two of these."""
    return max((after - before for before, after in itertools.pairwise(times)), default=0.0)


def spoken(values: list[float]) -> str:
    """Return median, 99th percentile and maximum."""
    p99 = statistics.quantiles(values, n=100, method="inclusive")[98]
    return f"p50 {statistics.median(values):.2f} s, p99 {p99:.2f} s, max {max(values):.2f} s"


def _serves(process: psutil.Process) -> bool:
    return "server" in process.cmdline()


if __name__ == "__main__":
    main()
