"""GPUs are raced for, and used beyond a share."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import is_running
from tests.trainer import supervised
from tests.trainer.supervised import Supervised
from tests.waiting import PATIENCE, until_now
from trainer.contract.files import replace_json
from trainer.contract.gpu_locks import Allocation, Holder, holders, take
from trainer.contract.job_directory import JobState

pytestmark = [pytest.mark.thorough, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
UUIDS = [f"GPU-{number}" for number in range(4)]

RACE = """
import os, random, sys, time
from trainer.contract.errors import GpusTaken
from trainer.contract.gpu_locks import Allocation, Holder, take
number, seconds = int(sys.argv[1]), float(sys.argv[2])
rng = random.Random(number)
print("ready", flush=True)
sys.stdin.readline()
end = time.monotonic() + seconds
while time.monotonic() < end:
    uuids = tuple(rng.sample([f"GPU-{n}" for n in range(4)], rng.choice([1, 1, 2, 4])))
    try:
        held = take(Allocation(uuids=uuids), Holder(pid=number), patience=0.02)
    except GpusTaken:
        time.sleep(rng.uniform(0, 0.01))
        continue
    # The clock is the same for all processes. Written at once: this one may be killed.
    os.write(1, f"{','.join(uuids)} {time.monotonic()} ".encode())
    time.sleep(rng.uniform(0, 0.004))
    os.write(1, f"{time.monotonic()}\\n".encode())
    held.close()
"""


@pytest.mark.fault(128, "64 processes race for GPUs, some are killed")
def test_of_64_processes_no_two_have_one_gpu_and_none_is_leaked():
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(number), "6"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for number in range(64)
    ]
    for racer in racers:
        assert racer.stdout.readline() == b"ready\n"
    for racer in racers:
        racer.stdin.write(b"\n")
        racer.stdin.flush()
    killed: dict[int, float] = {}
    rng = random.Random(1)  # noqa: S311 - nothing secret
    for victim in rng.sample(range(64), 20):
        time.sleep(0.15)
        killed[victim] = time.monotonic()  # before: what it has cannot be free earlier
        racers[victim].kill()
    said = [racer.communicate(timeout=PATIENCE)[0].decode() for racer in racers]

    had: dict[str, list[tuple[float, float]]] = {uuid: [] for uuid in UUIDS}
    for number, text in enumerate(said):
        for line in text.splitlines():
            words = line.split()
            if len(words) < 2:  # killed while it wrote
                continue
            ended = float(words[2]) if len(words) > 2 else killed[number]
            for uuid in words[0].split(","):
                had[uuid].append((float(words[1]), ended))
    doubled = sum(
        later[0] < earlier[1]
        for times in had.values()
        for earlier, later in zip(sorted(times), sorted(times)[1:], strict=False)
    )
    leaked = sum(bool(holders(uuid)) for uuid in UUIDS)

    assert (doubled, leaked) == (0, 0)
    assert min(map(len, had.values())) > 10  # however busy the computer is
    take(Allocation(uuids=tuple(UUIDS)), Holder.here()).close()


GROWING = "state('running'); time.sleep(600)"
MODEST = "state('running'); wait_for((job.root / 'go').exists); state('completed')"


@pytest.mark.fault(131, "a job uses more than its share of a GPU")
def test_who_takes_what_is_anothers_is_ended_by_name_and_the_other_goes_on(
    tmp_path, pretended_gpus, monkeypatch
):
    monkeypatch.setattr(supervised, "ENVIRONMENT", {**supervised.ENVIRONMENT, **os.environ})
    pretended_gpus.set_up(1)
    pair = [Supervised(tmp_path / "a", GROWING), Supervised(tmp_path / "b", MODEST)]
    for job in pair:
        share = {"uuids": ["GPU-0"], "share_gb": 12, "vram_gb": 24}
        replace_json(job.job.gpus, share)
    supervisors = [job.start() for job in pair]
    for job in pair:
        job.until(JobState.RUNNING)
    growing, modest = (job.status.trainer_pid for job in pair)
    uses = [{"pid": growing, "used_gb": 12.6}, {"pid": modest, "used_gb": 11}]

    pretended_gpus.change("GPU-0", processes=uses)

    assert supervisors[0].wait(PATIENCE) == 1
    assert pair[0].status.error["class"] == "ShareExceeded"
    assert "uses 12.6 GiB of GPU-0, and its share is 12" in pair[0].status.error["message"]
    assert is_running(modest)
    [left] = holders("GPU-0")
    assert left.share_gb == 12
    (pair[1].job.root / "go").touch()
    assert supervisors[1].wait(PATIENCE) == 0
    until_now(lambda: not holders("GPU-0"))
