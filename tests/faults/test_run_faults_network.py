"""The network between us and the machine is cut, slow, or gone."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest

from tests.faults.scene import LONG, MEDIUM

pytestmark = pytest.mark.slow
SHORT_LEASE = {"lease_minutes": 0.3, "stop_grace_seconds": 10}


@pytest.mark.fault(20, "connection cut at random")
@pytest.mark.thorough
async def test_cuts_at_random_change_nothing(scene, survived):
    proxy = await scene.behind_proxy()
    run = await scene.run(scene.job(**LONG))
    await scene.at_step(run, 1)

    scene.injected(run)
    chance = random.Random(20)  # noqa: S311 - the same cuts again
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        proxy.cut()
        await asyncio.sleep(chance.uniform(0.5, 2))

    await survived(run)
    assert proxy.connections > 5
    assert len(scene.cloud.account) == 1
    assert scene.directory(run).read_status().attempt == 1


@pytest.mark.thorough
@pytest.mark.fault(21, "slow network")
@pytest.mark.parametrize(
    ("latency", "bytes_per_second"), [(0.3, None), (0.05, 10_000)], ids=["latency", "10 kB/s"]
)
async def test_a_slow_network_makes_it_slower_and_nothing_else(
    scene, survived, latency, bytes_per_second
):
    proxy = await scene.behind_proxy()
    run = await scene.run(scene.job(**MEDIUM))
    await scene.at_step(run, 10)

    scene.injected(run)
    proxy.latency, proxy.bytes_per_second = latency, bytes_per_second
    await asyncio.sleep(15)
    proxy.latency, proxy.bytes_per_second = 0.0, None

    await survived(run)
    assert len(scene.cloud.account) == 1
    assert scene.directory(run).read_status().attempt == 1


@pytest.mark.thorough
@pytest.mark.fault(21, "slow network")
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("iptables") is None, reason="needs root and iptables"
)
async def test_lost_packets_change_nothing(scene, survived):
    run = await scene.run(scene.job(**MEDIUM))
    await scene.at_step(run, 10)

    scene.injected(run)
    with losing_packets(scene.machine().port, share=0.05) as lost:
        await asyncio.sleep(15)
        assert lost() > 0

    await survived(run)
    assert len(scene.cloud.account) == 1
    assert scene.directory(run).read_status().attempt == 1


@contextmanager
def losing_packets(port, share):
    """Lose a share of the packets to and from a port of this computer; yields their number."""
    chance = ["-m", "statistic", "--mode", "random", "--probability", str(share), "-j", "DROP"]
    rules = [
        ["INPUT", "-i", "lo", "-p", "tcp", way, str(port), *chance]
        for way in ("--dport", "--sport")
    ]
    for rule in rules:
        subprocess.run(["iptables", "-w", "-I", *rule], check=True)

    def lost():
        listed = subprocess.run(
            ["iptables", "-w", "-nvxL", "INPUT"], check=True, capture_output=True, text=True
        )
        words = [line.split() for line in listed.stdout.splitlines() if str(port) in line]
        return sum(int(packets) for packets, *_ in words)

    try:
        yield lost
    finally:
        for rule in rules:
            subprocess.run(["iptables", "-w", "-D", *rule], check=True)


@pytest.mark.thorough
@pytest.mark.fault(28, "partition, the API says running")
async def test_a_short_partition_hires_no_second_machine(scene, survived):
    proxy = await scene.behind_proxy()
    run = await scene.run(scene.job(**LONG))
    await scene.at_step(run, 20)

    scene.injected(run)
    proxy.freeze()
    await asyncio.sleep(20)
    assert len(scene.cloud.account) == 1
    proxy.thaw()

    await survived(run)
    assert len(scene.cloud.account) == 1
    assert scene.directory(run).read_status().attempt == 1


@pytest.mark.thorough
@pytest.mark.fault(28, "partition, the API says running")
async def test_a_partition_beyond_the_lease_never_trains_twice_at_once(scene, survived):
    proxy = await scene.behind_proxy()
    run = await scene.run(scene.job(**LONG, limits=SHORT_LEASE))
    await scene.at_step(run, 60)

    scene.injected(run)
    proxy.freeze()
    await scene.said("machine 2: ", 150)
    first, *_ = scene.cloud.all
    assert first.ended is not None

    await survived(run)
    assert [hire.attempt for hire in scene.hires(run)] == [1, 2]
