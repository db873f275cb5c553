"""What reconcile meets while it keeps our promises: hung machines, strange servers, other computers."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from prefect import get_client
from prefect.client.schemas.objects import StateType
from prefect.states import State

from blocks.machines import base
from blocks.machines import ssh as over_ssh
from blocks.machines.ssh import channel
from blocks.providers.runpod import RunPod
from flows import reconcile as reconciling
from flows import verdict
from flows.execute import create_run
from flows.locks import is_held, locked
from flows.reconcile import reconcile_once
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from flows.verdict import Act
from tests.faults.hunt import Hunt
from tests.faults.proof import Figures
from tests.faults.scene import MEDIUM
from tests.flows.flow_runs import until
from trainer.contract.files import read_json
from trainer.contract.manifest import verify

# 50: a Prefect server that does not know our run.


@pytest.mark.fault(50, "run unknown to this Prefect")
async def test_the_machine_of_a_live_flow_stays_though_prefect_does_not_know_its_run(
    scene, hunt, monkeypatch
):
    monkeypatch.setattr(reconciling, "ORPHAN_SECONDS", 0.0)
    monkeypatch.setattr(RunPod, "settle_seconds", 0.5)
    instance = await hunt.machine()

    async with locked(hunt.run.lock):  # as every flow does while it lives
        findings = [await reconcile_once() for _ in range(2)]
        assert scene.cloud.alive() == [instance.id]
    [gone] = await reconcile_once()

    for [kept] in findings:
        assert (kept.act, kept.instance) == (Act.KEEP, str(instance.mark))
        assert kept.why == "this Prefect server does not know its run, and a process works on it"
    assert gone.act is Act.TERMINATE
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(50, "run unknown to this Prefect")
async def test_a_training_goes_on_to_its_end_though_prefect_has_forgotten_its_run(
    scene, home, shared
):
    run = await scene.run(scene.job(**MEDIUM))
    await scene.at_step(run, 20)

    async with get_client() as client:  # with all that was ever noted, as a database that was reset
        await client.delete_flow_run(run.id)
    of_it = (f"prefect.flow-run.{run.id}",)
    file = shared / "prefect" / "home" / "prefect.db"
    with closing(sqlite3.connect(file, timeout=60)) as database, database:
        database.execute("DELETE FROM events WHERE resource_id = ?", of_it)
    await until(lambda: scene.flows[-1].poll() is not None)

    folder = RunFolder(run.id)
    assert scene.cloud.alive() == []
    assert not any(hire.is_open for hire in Journal.of(folder).hires)
    assert verify(Path(read_json(folder.report)["path"]))
    said = (scene.folder / "flow.log").read_text()
    assert "Prefect does not know this run any more" in said


# 51: a machine that can be reached, and does nothing.


async def failed(scene, hunt):
    """Give a hunt the machine of a run that failed, and whose process is gone."""
    # The machine itself has a longer lease, or it would end by itself.
    run = await create_run(scene.job(limits={"lease_minutes": 0.05}))
    hunt.run = RunFolder(run.id)
    instance = await hunt.machine()
    async with get_client() as client:
        failed = State(type=StateType.FAILED, name="Failed")
        await client.set_flow_run_state(run.id, failed, force=True)
    return instance


@pytest.mark.thorough
@pytest.mark.fault(51, "commands hang, sshd answers")
async def test_a_hung_machine_delays_no_other_and_goes_when_its_time_is_up(
    scene, hunt, monkeypatch
):
    for module in (base, over_ssh):
        monkeypatch.setattr(module, "RUN_SECONDS", 6.0)
    monkeypatch.setattr(channel, "SILENCE_SECONDS", 6.0)
    hung = await failed(scene, hunt)
    scene.cloud.machines[hung.id].hang()
    held_up = asyncio.create_task(reconcile_once())
    await until(lambda: is_held(hunt.run.root / reconciling.AT_WORK))

    other = Hunt(scene, Figures())
    await failed(scene, other)
    findings = await asyncio.wait_for(reconcile_once(), 60)

    assert scene.cloud.alive() == [hung.id]
    assert not held_up.done()
    assert {f.why for f in findings if f.instance == str(hung.mark)} == {
        "another pass of reconcile is at work on it"
    }
    [finding] = await asyncio.wait_for(held_up, 60)
    assert finding.why.endswith("not done yet, the next reconcile goes on")
    await until(lambda: hunt.journal.hires[0].held, 1)

    async def gone():
        await asyncio.wait_for(reconcile_once(), 60)
        return not scene.cloud.alive()

    await until(gone, 60)
    await hunt.over(other)


# 64: a run that went on at another computer.


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.fault(64, "resumed on another computer")
async def test_a_run_that_goes_on_elsewhere_is_not_revived_and_its_machine_here_goes(
    scene, survived, monkeypatch, tmp_path
):
    monkeypatch.setattr(verdict, "ZOMBIE_SECONDS", 0.0)
    run = await scene.run(scene.job(**MEDIUM))
    await scene.said("started the training")
    scene.kill()  # before a line of the log is with Prefect
    [here] = scene.cloud.alive()

    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TRAINING_ORCHESTRATOR_HOME", str(tmp_path / "elsewhere"))
        scene.again(run)
        await scene.at_step(run, 5)
        [there] = set(scene.cloud.alive()) - {here}

        with elsewhere.context() as back:
            back.setenv("TRAINING_ORCHESTRATOR_HOME", str(tmp_path / "home"))
            [decision] = await reconcile_once()
            [again] = await reconcile_once()

        assert (decision.act, again.act) == (Act.SETTLE, Act.KEEP)
        assert again.why == f"{socket.gethostname()} works on it"
        assert scene.cloud.alive() == [there]
        assert len(scene.processes(run)) == 1
        scene.injected(run)
        await survived(run)
    assert len(scene.cloud.account) == 2
