"""What ends a phase, and what does not: cancel and cap, a full disk, a killed probe, a silent line."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from prefect import get_client
from prefect.states import Cancelled

from blocks.registry import load_provider
from blocks.workplaces.base import Workplace
from flows import reconcile, verdict
from flows.attended import start_in_background
from flows.outcome import is_undecided
from flows.renting import liveness
from flows.renting.lease import renewed
from flows.renting.liveness import in_contact
from flows.run_folder import RunFolder
from flows.saved import saved_step
from gateway.control import ask_cancel
from tests.faults.disk import fill
from tests.faults.scene import LONG, MEDIUM
from tests.flows.flow_runs import EXECUTE
from tests.flows.reporting.receiver import Receiver
from tests.waiting import until
from trainer.contract.errors import ConnectionLost, HomeDiskFull, MachineLost
from trainer.contract.job_directory import JobState
from trainer.contract.metrics import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
CRAWL = 3_000  # bytes per second: a phase that usually takes a moment takes a minute


async def cancel(run):
    async with get_client() as client:
        await ask_cancel(client, await client.read_flow_run(run.id))


@pytest.mark.fault(52, "cancel or cap while it sends or fetches")
@pytest.mark.parametrize("why", ["cancel", "cap"])
@pytest.mark.parametrize(
    "words", [r"uploading dataset", r"'train-\w+' - Finished"], ids=["upload", "download"]
)
async def test_a_transfer_is_broken_off_by_cancel_and_cap(scene, survived, words, why):
    proxy = await scene.behind_proxy()
    run = await scene.run(scene.job(limits={"max_cost": 0.5, "stop_grace_seconds": 10}))
    await scene.said(words)
    proxy.bytes_per_second = CRAWL

    scene.injected(run, "breaking off", ends=True)
    if why == "cancel":
        await cancel(run)
        ends = "^cancelled; "
    else:
        scene.cloud.all[0].price_per_hour = 720.0  # 0.2 USD per second
        ends = r"limits\.max_cost reached"
    # Within 5 s, for the cap from when the money is used up: the provider is asked every 5 s.
    await scene.said("breaking off", 5 if why == "cancel" else 15)
    proxy.bytes_per_second = None

    await survived(run, JobState.STOPPED, ends)


@pytest.mark.fault(52, "cancel or cap while it sends or fetches")
async def test_a_fetch_that_gets_nowhere_is_given_up_after_a_lease(scene, hunt, monkeypatch):
    monkeypatch.setattr(liveness, "PAUSE_SECONDS", 0.1)
    hunt.wants(limits={"lease_minutes": 0.1})
    instance = await hunt.machine()
    provider = await load_provider(instance.provider)
    tries, arrived = 0, 0

    async def cut(workplace: Workplace) -> None:
        nonlocal tries, arrived
        tries += 1
        arrived += tries < 20
        raise ConnectionLost("cut")

    async with renewed(hunt.job, hunt.run, [instance]):
        with pytest.raises(MachineLost, match="answers, but nothing has come or gone"):
            await in_contact(
                hunt.job, provider, instance, hunt.journal, cut, arrived=lambda: arrived
            )

    assert tries > 20
    await hunt.over()


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Let a small disk have no room left meanwhile."""
    filler = fill(disk)
    yield
    filler.unlink()


@pytest.mark.fault(49, "our disk full")
async def test_a_full_disk_here_delays_what_comes_home_and_nothing_else(
    scene, survived, small_disk, home
):
    small_disk(home, "400m")
    run = await scene.run(scene.job(**LONG))
    step = await scene.at_step(run, 20)

    scene.injected(run)
    with full(home):
        scene.cloud.all[0].price_per_hour = 0.2  # something for the journal
        await scene.said("trouble on this computer")
        await until(lambda: scene.directory(run).read_status().step > step + 100)
        await scene.said("is billed at 0.2 USD/h now")
        assert scene.flows[-1].poll() is None

    await survived(run)
    assert len(scene.cloud.account) == 1
    assert scene.hires(run)[0].price_per_hour == 0.2
    assert (scene.folder / "flow.log").read_text().count("trouble on this computer") == 1


@pytest.mark.fault(49, "our disk full")
async def test_what_does_not_fit_here_waits_for_room_on_its_machine(scene, hunt, monkeypatch):
    monkeypatch.setattr(liveness, "PAUSE_SECONDS", 0.1)
    hunt.wants(limits={"lease_minutes": 0.1})
    instance = await hunt.machine()
    provider = await load_provider(instance.provider)
    tries = 0

    async def too_big(workplace: Workplace) -> str:
        nonlocal tries
        tries += 1
        if tries < 5:
            raise HomeDiskFull(
                "adapter_model.safetensors needs 1792 bytes; its disk has 0 more free."
            )
        return "home"

    async with renewed(hunt.job, hunt.run, [instance]):
        assert await in_contact(hunt.job, provider, instance, hunt.journal, too_big) == "home"
        tries = -10_000
        with pytest.raises(HomeDiskFull) as full_for_long:  # for a lease's time, and no longer
            await in_contact(hunt.job, provider, instance, hunt.journal, too_big, arrived=lambda: 0)

    assert is_undecided(full_for_long.value, hunt.journal)  # the job is executed again
    await hunt.over()


@pytest.mark.fault(49, "our disk full")
async def test_reconcile_ends_what_it_must_on_a_full_disk(scene, small_disk, home):
    small_disk(home, "400m")
    run = await scene.run(scene.job(max_steps=2000, limits={"teardown": "always"}))
    await scene.at_step(run, 20)
    scene.kill()
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Cancelled(), force=True)

    with full(home):
        assert [found.act for found in await reconcile.reconcile_once()] == ["settle"]

        assert scene.cloud.alive() == []
        assert not scene.hires(run)[0].is_open


@pytest.mark.fault(49, "our disk full")
async def test_what_was_trained_comes_home_though_no_row_says_where_it_is(scene):
    run = await scene.run(scene.job(**LONG))
    await scene.at_step(run, 20)
    scene.kill()
    folder = RunFolder(run.id)
    folder.journal.unlink()  # as if the disk had been full since before the machine was ready
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Cancelled(), force=True)
    before = folder.log.stat().st_size

    assert [found.act for found in await reconcile.reconcile_once()] == ["settle"]

    assert scene.cloud.alive() == []
    assert saved_step(folder) >= 20
    assert folder.log.stat().st_size > before
    assert read_metrics(folder.metrics)[0][saved_step(folder)]


@pytest.mark.fault(54, "a probe is killed")
async def test_a_machine_is_not_lost_for_a_probe_that_was_killed(scene, survived):
    run = await scene.run(scene.job(**MEDIUM))
    await scene.at_step(run, 30)
    trainer = psutil.Process(scene.directory(run).read_status().trainer_pid)

    # So that its status is old, and the flow asks whether anybody works there.
    trainer.suspend()
    scene.injected(run, "exit code")
    probe = await until(lambda: next(probes(scene.directory(run).root), None))
    probe.kill()
    await scene.said("exit code")
    trainer.resume()

    await survived(run)
    assert len(scene.cloud.account) == 1
    assert scene.directory(run).read_status().attempt == 1


def probes(directory: Path) -> Iterator[psutil.Process]:
    """Yield the processes that ask a supervisor how it is."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[-2:] == ["--status", str(directory)] and "python" in words[0]:
            yield process


@pytest.mark.fault(60, "the line is silent at the end")
async def test_the_last_lines_come_over_another_line_when_one_is_silent(scene, survived):
    run = await scene.run(scene.job(**MEDIUM))
    await scene.at_step(run, 150)
    log = str(scene.directory(run).log)

    scene.injected(run, "over another connection")
    tails = [
        process
        for process in psutil.process_iter(["cmdline"])
        if log in (process.info["cmdline"] or []) and "tail" in process.info["cmdline"][0]
    ]
    assert tails
    for tail in tails:
        tail.suspend()  # nothing is closed: the line is only silent

    await survived(run)
    assert len(scene.cloud.account) == 1


@pytest.mark.fault(61, "executed twice")
async def test_a_failed_run_is_not_executed_again_while_its_last_reports_are_sent(
    scene, survived, monkeypatch
):
    monkeypatch.setattr(verdict, "ZOMBIE_SECONDS", 0.0)
    receiver = Receiver().reserve()  # it is down, and the reports are tried for 10 s
    for name, value in receiver.environment.items():
        monkeypatch.setenv(name, value)
    # As in a worker's process, which leaves no mark: only the lock says that it is at work.
    run = await scene.run(scene.job(setup=["exit 3"]), [sys.executable, "-c", EXECUTE])
    await until(lambda: scene.cloud.account and not scene.cloud.alive())

    scene.injected(run, "DependencyError", ends=True)
    while scene.flows[-1].poll() is None:
        assert {found.act for found in await reconcile.reconcile_once()} <= {"keep"}
    assert await reconcile.reconcile_once() == []

    await survived(run, JobState.FAILED, "^DependencyError: ")
    assert len(scene.cloud.account) == 1


@pytest.mark.fault(61, "executed twice")
async def test_a_run_at_rest_is_executed_again_only_when_a_person_asks(scene, survived):
    run = await scene.run(scene.job(setup=["exit 3"]))
    await scene.ended(run)

    scene.injected(run, ends=True)
    assert await asyncio.to_thread(start_in_background(run.id).wait, 60) == 1

    assert "this run is Failed already" in RunFolder(run.id).notes.read_text()
    await survived(run, JobState.FAILED, "^DependencyError: ")
    assert len(scene.cloud.account) == 1


@pytest.mark.thorough
@pytest.mark.fault(72, "machine's disk full")
async def test_a_training_whose_machine_has_no_room_left_says_so_and_comes_home(
    scene, survived, small_disk
):
    small_disk(scene.cloud.folder, "150m")
    run = await scene.run(scene.job(max_steps=2000, save_steps=50))
    await scene.at_step(run, 60)

    scene.injected(run, "starting again", ends=True)
    with full(scene.cloud.folder):
        await survived(run, JobState.FAILED, "^DiskFull: The disk of .* is full: 0.0 of 150 MiB")
    assert not scene.hires(run)[0].is_open
