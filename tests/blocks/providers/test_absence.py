"""The rule of absence, on a provider that hides what it has."""

from __future__ import annotations

import asyncio
import time

import pytest

from blocks.marks import Mark
from blocks.models import Instance, InstanceStatus
from blocks.providers.absence import LOOKS, Absence, found_or_absent
from blocks.providers.runpod import RunPod
from tests.blocks.providers.rented_account import mark
from tests.blocks.providers.runpod.runpod_account import launched
from tests.clouds.cloud import Fault
from tests.clouds.runpod import RunPodCloud
from trainer.contract.errors import ConnectionLost


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.setattr(RunPod, "settle_seconds", 1.0)
    with RunPodCloud(tmp_path / "cloud") as cloud:
        cloud.sshd_never = True
        yield cloud


@pytest.fixture
def provider(cloud):
    return RunPod(api_key=cloud.key, api_url=cloud.url)


def seen(status: InstanceStatus) -> Instance:
    return Instance(provider="runpod", id="1", mark=None, status=status)


def test_neither_many_looks_nor_much_time_alone_prove_it(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    quick, slow = Absence(10.0), Absence(10.0)
    for _ in range(20):
        quick.seen(None)
    slow.seen(None)
    clock[0] = 60.0
    slow.seen(seen(InstanceStatus.ABSENT))

    assert (quick.is_proven, slow.is_proven) == (False, False)
    slow.seen(None)
    assert slow.is_proven
    slow.seen(seen(InstanceStatus.UNKNOWN))
    assert not slow.is_proven


def test_time_without_further_looks_does_not_prove_it(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    absence = Absence(10.0)

    for moment in (0.0, 0.5, 1.0, 9.9):
        clock[0] = moment
        absence.seen(None)
        assert not absence.is_proven
    clock[0] = 10.0
    assert not absence.is_proven
    absence.seen(None)
    assert absence.is_proven
    assert LOOKS > 1


async def test_what_appears_late_is_found_and_what_never_appears_is_not(cloud, provider):
    cloud.list_lag = cloud.look_lag = 0.6
    instance = await launched(provider)

    found = await found_or_absent(provider, mark(), instance.id)

    assert found is not None
    assert found.id == instance.id
    assert await found_or_absent(provider, Mark.of_run(mark().run_id, 9)) is None


async def test_a_direct_look_outweighs_lists_that_leave_it_out(cloud, provider):
    instance = await launched(provider)
    cloud.omits = 10**6

    assert (await found_or_absent(provider, mark(), instance.id)).id == instance.id


async def test_a_provider_that_cannot_be_asked_proves_nothing(cloud, provider, monkeypatch):
    async def lost(*_: object) -> None:
        raise ConnectionLost("away")

    monkeypatch.setattr(RunPod, "find", lost)

    with pytest.raises(ConnectionLost):
        await asyncio.wait_for(found_or_absent(provider, mark()), 30)


async def test_one_answer_that_fails_on_the_way_changes_nothing(cloud, provider):
    instance = await launched(provider)
    cloud.faults.add(Fault(kind="drop", method="GET", times=2))

    assert (await found_or_absent(provider, mark(), instance.id)).id == instance.id
