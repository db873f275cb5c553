"""Prefect stores each event once, whoever sends it again, and automations see it once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.job_events import sending
from flows.job_events.kinds import Happening, event_of, facts_of
from flows.job_events.sending import Sent, send, send_leftovers
from flows.job_events.spool import EventSpool
from flows.run_folder import RunFolder
from flows.scheduling.labels import USER
from tests.flows.job_events.test_noting import a_run
from tests.waiting import until

NOWHERE = "http://127.0.0.1:9/api"  # the port "discard", where nobody listens


async def stored(run_id: UUID) -> list[dict[str, Any]]:
    """Return the job's events that Prefect has, oldest first."""
    wanted = {"resource": {"id": [f"prefect.flow-run.{run_id}"]}, "order": "ASC"}
    wanted |= {"event": {"prefix": ["training-orchestrator.job."]}}
    async with get_client() as client:
        answer = await client.request("POST", "/events/filter", json={"filter": wanted})
    answer.raise_for_status()
    return list(answer.json()["events"])


def spool_of(*happenings: Happening) -> tuple[UUID, EventSpool]:
    """Return a run's spool with events of it that nobody has sent."""
    run = a_run(**{USER: "ada"})
    spool, facts = EventSpool.of(str(run.id)), facts_of(run)

    def change(noted):
        for what in happenings:
            noted.add(event_of(facts, what, rests=0, at=datetime.now(UTC)))

    spool.change(change)
    return run.id, spool


async def until_stored(spool: EventSpool) -> None:
    async def is_stored() -> bool:
        return await send(spool, hurry=True) is Sent.STORED

    await until(is_stored)


@pytest.mark.usefixtures("prefect_api")
async def test_what_was_sent_is_asked_for_and_sent_again_only_when_it_was_lost(monkeypatch):
    run_id, spool = spool_of(Happening.STARTED, Happening.PAUSED)
    posts: list[int] = []
    post = sending._post

    async def counted(client, events):
        posts.append(len(events))
        return await post(client, events)

    monkeypatch.setattr(sending, "_post", counted)
    assert await send(spool, hurry=True) is Sent.TAKEN
    # As if a process died before it noted that: the next one sends again.
    spool.change(lambda noted: noted.sent.clear())
    assert await send(spool, hurry=True) in {Sent.TAKEN, Sent.STORED}
    await until_stored(spool)
    found = await stored(run_id)
    assert [event["event"].rpartition(".")[2] for event in found] == ["started", "paused"]
    assert found[0]["resource"]["training-orchestrator.user"] == "ada"
    # Another computer has noted the same, and finds that it is there.
    spool.change(lambda noted: (noted.sent.clear(), setattr(noted, "stored", 0)))
    posts.clear()
    assert await send(spool, hurry=True) is Sent.STORED
    assert sum(posts) == 0


async def test_nothing_is_lost_while_prefect_is_away(prefect_api):
    run_id, spool = spool_of(Happening.COMPLETED)
    with temporary_settings({PREFECT_API_URL: NOWHERE}):
        assert await send(spool, hurry=True) is Sent.LATER
        await send_leftovers()
    assert len(spool.read().waiting) == 1
    await send_leftovers()
    await until_stored(spool)
    assert len(await stored(run_id)) == 1


@pytest.mark.usefixtures("prefect_api")
async def test_an_event_that_prefect_refuses_keeps_no_other_back():
    run_id, spool = spool_of(Happening.STARTED, Happening.FAILED, Happening.STOPPED)

    def spoil(noted):
        noted.events[1]["event"] = "x" * 5000

    spool.change(spoil)
    await until_stored(spool)
    assert [e["event"].rpartition(".")[2] for e in await stored(run_id)] == ["started", "stopped"]


@pytest.mark.usefixtures("prefect_api")
async def test_what_a_prefect_never_finds_is_not_sent_for_ever(monkeypatch):
    _, spool = spool_of(Happening.STARTED)
    sent: list[dict[str, Any]] = []

    async def taken(_client, events):
        sent.extend(events)
        return set()

    async def nothing(_client, _events):
        return set()

    monkeypatch.setattr(sending, "_post", taken)
    monkeypatch.setattr(sending, "_stored", nothing)
    monkeypatch.setattr(sending, "AGAIN_SECONDS", 0.0)
    for _ in range(5):
        await send(spool, hurry=True)
    assert len(sent) == 3
    assert spool.read().waiting == []


async def test_a_flow_sends_while_it_runs_and_ends_in_time_while_prefect_is_away(
    prefect_api, monkeypatch
):
    monkeypatch.setattr(sending, "FINISH_SECONDS", 0.2)
    run_id, spool = spool_of()
    run = RunFolder(run_id)
    facts = facts_of(a_run())
    async with sending.telling(run):
        spool.change(
            lambda noted: noted.add(
                event_of(facts, Happening.STARTED, rests=0, at=datetime.now(UTC))
            )
        )
        await until(lambda: spool.read().sent or not spool.read().waiting)
    with temporary_settings({PREFECT_API_URL: NOWHERE}):
        async with sending.telling(run):
            spool.change(
                lambda noted: noted.add(
                    event_of(facts, Happening.FAILED, rests=0, at=datetime.now(UTC))
                )
            )
    assert [e["event"].rpartition(".")[2] for e in spool.read().waiting][-1] == "failed"


@pytest.mark.usefixtures("prefect_api")
async def test_runs_of_one_process_send_together_and_one_that_is_cancelled_harms_no_other(
    monkeypatch,
):
    posts: list[int] = []
    post = sending._post

    async def counted(client, events):
        posts.append(len(events))
        return await post(client, events)

    monkeypatch.setattr(sending, "_post", counted)
    spools = [spool_of(Happening.STARTED)[1] for _ in range(3)]
    assert await asyncio.gather(*map(send, spools)) == [Sent.TAKEN] * 3
    assert posts == [3]
    first, second = (spool_of(Happening.STARTED)[1] for _ in range(2))
    leader = asyncio.create_task(send(first))
    await asyncio.sleep(0)
    other = asyncio.create_task(send(second))
    await asyncio.sleep(0)
    leader.cancel()
    assert await other is Sent.LATER  # which is tried again
    assert await send(second, hurry=True) is Sent.TAKEN
