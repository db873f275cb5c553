"""Many launches at one account, by several processes: all come to their turn, none breaks the pace."""

from __future__ import annotations

import asyncio
import re
import sys
from itertools import pairwise

import pytest

from blocks.providers import api
from flows.renting import turns
from tests.clouds.cloud import Fault
from tests.flows.flow_runs import until

PROCESSES, EACH = 3, 17
# Lambda Cloud's own intervals, scaled: all calls of an account, and its launches.
INTERVALS = {"": 0.02, "launch": 0.24}
LAUNCH = f"""
import asyncio, sys
from uuid import UUID, uuid4
from blocks.providers.lambda_cloud import LambdaCloud
from tests.faults.launching import launched
from trainer.config import Limits, Resources

LambdaCloud.intervals = {INTERVALS}

async def main():
    provider = LambdaCloud()
    [offer, *_] = await provider.offers(Resources(gpu_count=1), Limits())
    await asyncio.gather(*(launched(provider, offer) for _ in range({EACH})))

asyncio.run(main())
"""


@pytest.mark.thorough
@pytest.mark.fault(65, "50 launches, a rate limit")
@pytest.mark.parametrize("scene", ["lambda"], indirect=True)
async def test_launches_of_several_processes_keep_the_pace_of_their_account(scene, tmp_path):
    scene.cloud.sshd_never = True
    scene.cloud.rates.factor = INTERVALS["launch"] / 12.0
    launches = []
    ordered = scene.cloud.rent

    def rent(rented):
        launches.append(rented.created)
        return ordered(rented)

    scene.cloud.rent = rent
    start = asyncio.create_subprocess_exec
    processes = [await start(sys.executable, "-c", LAUNCH) for _ in range(PROCESSES)]
    codes = await asyncio.gather(*(process.wait() for process in processes))

    assert set(codes) == {0}
    assert len(scene.cloud.alive()) == PROCESSES * EACH
    assert scene.cloud.rates.refused["launch"] == 0
    assert min(later - one for one, later in pairwise(launches)) > INTERVALS["launch"] - 0.05


@pytest.mark.thorough
@pytest.mark.fault(65, "50 launches, a rate limit")
async def test_a_429_ends_no_run_however_often_it_comes(scene, hunt, monkeypatch):
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.01)
    monkeypatch.setattr(api, "RATE_PATIENCE", 0.01)
    monkeypatch.setattr(api, "LEAST_RATE_PAUSE", 0.02)
    again = {"Retry-After": "0"}
    for path in ("/catalog", "/pods$"):
        scene.cloud.faults.add(
            Fault(kind="status", status=429, path=path, headers=again, times=150)
        )

    await hunt.machine()

    refused = [request for request in scene.cloud.requests if request.status == 429]
    assert len(refused) == 300
    assert [re.sub(r" \(.*", "", outcome) for outcome in hunt.outcomes()] == ["in use"]
    await until(lambda: hunt.journal.hires[0].cost() < 0.01, 1)
    await hunt.over()
