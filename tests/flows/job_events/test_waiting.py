"""What happens to a job while no flow works on it is an event all the same, once."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from prefect import get_client
from prefect.states import Cancelled, Scheduled
from prefect.types._datetime import now

from flows.job_events import waiting
from flows.job_events.spool import EventSpool
from flows.job_events.waiting import tell_waiting
from flows.train import train
from tests.flows.flow_runs import make_job
from tests.flows.job_events.test_sending import stored, until_stored

PARAMETERS = {"job": make_job().model_dump(mode="json")}


@pytest.mark.usefixtures("prefect_api")
async def test_waiting_jobs_are_submitted_queued_and_stopped_once_and_later_ones_not_yet(
    monkeypatch,
):
    ours = train.with_options(name=f"train-{uuid4()}")  # which no other test's worker tells of
    monkeypatch.setattr(waiting, "FLOW", ours.name)
    async with get_client() as client:

        async def made(seconds: float):
            at = now("UTC") + timedelta(seconds=seconds)
            state = Scheduled(scheduled_time=at)
            return (await client.create_flow_run(ours, parameters=PARAMETERS, state=state)).id

        waits, later = await made(0), await made(3600)
        gone = await made(-30)
        await client.set_flow_run_state(gone, Cancelled(message="no longer wanted"))
        monkeypatch.setattr(waiting, "AT_ONCE", timedelta(hours=1))
        await tell_waiting(client)
        await until_stored(EventSpool.of_waiting())

        def names(events):
            return [event["event"].rpartition(".")[2] for event in events]

        assert names(await stored(waits)) == ["submitted"]
        monkeypatch.setattr(waiting, "AT_ONCE", timedelta())
        await tell_waiting(client)
        await tell_waiting(client)
        await until_stored(EventSpool.of_waiting())
        assert names(await stored(waits)) == ["submitted", "queued"]
        assert await stored(later) == []
        end = (await stored(gone))[-1]
        assert names(await stored(gone)) == ["submitted", "stopped"]
        assert end["payload"]["reason"] == "no longer wanted"
        for run_id in (waits, later):
            await client.delete_flow_run(run_id)


@pytest.mark.usefixtures("prefect_api")
async def test_the_next_look_begins_where_the_last_one_ended(monkeypatch):
    since = []
    monkeypatch.setattr(waiting, "_ended", lambda at: since.append(at) or None)

    async def none(*_):
        for each in ():
            yield each

    monkeypatch.setattr(waiting, "_runs", none)
    async with get_client() as client:
        for _ in range(3):
            await tell_waiting(client)
    assert since[0] == since[1] < since[2] < since[0] + timedelta(minutes=1)
