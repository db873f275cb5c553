"""Whether anybody works on a run, and what may be asked of it."""

from __future__ import annotations

import asyncio
import fcntl
import time
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelling, Completed, Crashed, Paused, Running, Scheduled

from blocks.home import runs
from flows.attended import is_worked_on
from flows.execute import create_run, schedule_again
from flows.run_folder import RunFolder
from flows.shown import QUEUED, REVIVING, job_state
from gateway import control
from gateway.batches import changing
from gateway.prefect.client import connected
from tests.flows.scheduling.pool_site import pool_site
from tests.gateway.commanding import make_job
from tests.waiting import PATIENCE
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState


async def _run_in(client: PrefectClient, state: State | None = None) -> FlowRun:
    run = await create_run(make_job())
    if state:
        await client.set_flow_run_state(run.id, state, force=True)
    return await client.read_flow_run(run.id)


def test_a_run_is_worked_on_while_its_lock_is_held():
    run_id = uuid4()
    folder = RunFolder(run_id)

    with folder.lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert is_worked_on(folder.root)

    assert not is_worked_on(folder.root)


def test_asking_about_a_run_leaves_no_folder():
    run_id = uuid4()

    assert not is_worked_on(runs() / str(run_id))
    assert not (runs() / str(run_id)).exists()


def test_a_run_of_another_computer_is_never_called_abandoned(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(control, "ABANDONED_SECONDS", -1.0)
    here, elsewhere = uuid4(), uuid4()
    RunFolder(here)

    assert control.AbandonmentWatch(here).is_abandoned()
    monkeypatch.setattr(control, "ABANDONED_SECONDS", 0.5)
    assert not control.AbandonmentWatch(elsewhere).is_abandoned()


@pytest.mark.parametrize("state", [None, Completed, Paused, Cancelling])
async def test_only_a_running_job_can_be_paused(
    state: Callable[[], State] | None, prefect_api: str
):
    async with get_client() as client:
        run = await _run_in(client, state() if state else None)

        with pytest.raises(ConfigError, match="only a running job can be paused"):
            await control.ask_pause(client, run)


async def test_a_job_that_waits_to_be_attached_to_shows_as_running_and_stays_in_its_queue(
    prefect_api: str,
):
    async with get_client() as client:
        run = await _run_in(client, Scheduled(name=REVIVING))

        assert job_state(run) is JobState.RUNNING
        with pytest.raises(ConfigError, match="waiting for a worker; only a running job"):
            await control.ask_pause(client, run)
        assert (await client.read_flow_run(run.id)).state.name == REVIVING


async def test_a_pause_of_a_job_whose_process_is_gone_says_so(prefect_api: str):
    async with get_client() as client:
        run = await _run_in(client, Running())
        RunFolder(run.id)
        await control.ask_pause(client, run)

        with pytest.raises(ConfigError, match=r"is gone.*trainctl resume"):
            await control.until_paused(client, run.id)


async def test_a_paused_job_is_cancelled_at_once(prefect_api: str):
    async with get_client() as client:
        run = await _run_in(client, Paused())

        await control.ask_cancel(client, run)

        assert job_state(await client.read_flow_run(run.id)) is JobState.STOPPED


async def test_whoever_cancels_a_job_that_only_waited_waits_for_no_last_word(
    prefect_api: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(control, "LAST_WORD_SECONDS", 1e9)
    async with get_client() as client:
        run = await _run_in(client, Scheduled(name=QUEUED))

        await control.ask_cancel(client, run)
        async with asyncio.timeout(PATIENCE):
            stopped = await control.until_stopped(client, run.id, wait=True)

        assert job_state(stopped) is JobState.STOPPED


async def test_a_completed_job_is_neither_cancelled_nor_resumed(prefect_api: str):
    async with get_client() as client:
        run = await _run_in(client, Completed())

        with pytest.raises(ConfigError, match="nothing to cancel"):
            await control.ask_cancel(client, run)
        with pytest.raises(ConfigError, match="nothing to resume"):
            control.refuse_resume(run)


async def test_a_cancellation_that_comes_after_the_end_is_refused(prefect_api: str):
    async with get_client() as client:
        run = await _run_in(client, Running())
        await client.set_flow_run_state(run.id, Completed())

        with pytest.raises(ConfigError, match=r"is completed; there is nothing to cancel"):
            await control.ask_cancel(client, run)

        assert job_state(await client.read_flow_run(run.id)) is JobState.COMPLETED


async def test_a_job_at_work_is_not_executed_twice(prefect_api: str):
    async with get_client() as client:
        run = await _run_in(client, Running())

    with RunFolder(run.id).lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="a process executes it now"):
            control.refuse_resume(run)

    control.refuse_resume(run)  # its process died: to attach again is what is wanted


@pytest.mark.parametrize("state", [Running(), Crashed()], ids=["running", "crashed"])
async def test_cancelling_a_job_whose_process_died_before_it_trained_stops_it(
    prefect_api: str, state
):
    async with get_client() as client:
        run = await _run_in(client, state)
        RunFolder(run.id)
        await control.ask_cancel(client, run)
        began = time.monotonic()

        run = await control.until_stopped(client, run.id, wait=True)

        assert job_state(run) is JobState.STOPPED
        assert time.monotonic() - began >= control.ABANDONED_SECONDS


async def test_a_job_at_rest_goes_on_by_as_many_processes_as_are_asked_for(prefect_api: str):
    async with get_client() as client:
        run = await _run_in(client, Paused())

        with pytest.raises(ConfigError, match="nodes"):
            await control.reshape(client, run, nodes=1000, processes=None)
        await control.reshape(client, run, nodes=None, processes=2)

        resources = (await client.read_flow_run(run.id)).parameters["job"]["resources"]
        assert {resources["gpu_count"], resources["cpu_processes"]} & {2}
        running = await _run_in(client, Running())
        with pytest.raises(ConfigError, match="has not let go of what it trains on"):
            await control.reshape(client, running, nodes=None, processes=2)


async def test_a_job_that_waits_leaves_the_queue_at_once_and_goes_back_to_its_place(
    prefect_api: str,
):
    async with pool_site() as site:
        id = UUID(await site.submit("waits"))
        place = (await site.run(str(id))).created

        with pytest.raises(ConfigError, match="waits in the queue already"):
            control.refuse_resume(await site.run(str(id)))
        light = connected()
        assert changing.pause_waiting(light, light.read_flow_run(id))
        run = await site.run(str(id))
        assert job_state(run) is JobState.PAUSED
        assert not changing.pause_waiting(light, light.read_flow_run(id))

        control.refuse_resume(run)
        assert await schedule_again(id)
        run = await site.run(str(id))
        assert (run.state.name, run.next_scheduled_start_time) == (QUEUED, place)
        await site.set_state(str(id), Running())
        assert not changing.pause_waiting(light, light.read_flow_run(id))
